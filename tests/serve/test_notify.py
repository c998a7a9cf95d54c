"""systemd: notifications, the watchdog, and the unit file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clavitor_host.serve import notify
from tests.serve.running import Program

UNIT = Path(__file__).parents[2] / "packaging" / "clavitor.service"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def receive(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


def test_the_life_of_a_service_is_told(manager: socket.socket, start: Callable[..., Program]) -> None:
    program = start(environ={"NOTIFY_SOCKET": str(manager.getsockname())})
    assert receive(manager) == ["READY=1"]
    program.process.send_signal(signal.SIGHUP)
    reloading, at = receive(manager)
    assert reloading == "RELOADING=1"
    assert at.startswith("MONOTONIC_USEC=")
    assert receive(manager) == ["READY=1"]
    program.process.terminate()
    assert receive(manager) == ["STOPPING=1"]
    program.wait()


def test_the_watchdog_is_fed_twice_an_interval(manager: socket.socket, start: Callable[..., Program]) -> None:
    start(environ={"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "200000"})
    told = [receive(manager)[0] for _ in range(4)]
    assert told.count("WATCHDOG=1") >= 3


def test_an_event_loop_that_hangs_does_not_feed_it(manager: socket.socket, start: Callable[..., Program]) -> None:
    program = start(environ={"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "200000"})
    with program.connect() as client:
        client.request("/hang-loop")
        program.event("waiting", path="/hang-loop")
        manager.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                receive(manager)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    assert not notify.notify("READY=1")


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0clavitor-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@clavitor-test-{os.getpid()}")
        assert notify.notify("STATUS=hello", "READY=1")
        assert sock.recv(100) == b"STATUS=hello\nREADY=1"


def test_a_watchdog_meant_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    assert notify.watchdog_interval() == 0.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_interval() is None


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: install systemd")
def test_the_unit_verifies(tmp_path: Path) -> None:
    unit = tmp_path / "clavitor.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/clavitor", "/bin/true"))
    result = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    mine = [line for line in result.stderr.splitlines() if "clavitor" in line]
    assert (result.returncode, mine) == (0, [])
