"""Several workers: started, replaced, stopped."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.running import PATIENCE, Program

Start = Callable[..., Program]


def gone(pid: int) -> bool:
    """Wait for the end of a process that is not our child."""
    until = time.monotonic() + PATIENCE
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = bool(poll.poll(max(0, (until - time.monotonic()) * 1000)))
    os.close(descriptor)
    return ended


def workers(start: Start, count: int, **options: object) -> tuple[Program, dict[int, int]]:
    program = start(ready=False, workers=count, **options)
    pids = {}
    for _ in range(count):
        event = program.event("ready")
        pids[event["worker"]] = event["pid"]
    assert sorted(pids) == list(range(count))
    return program, pids


def test_the_first_worker_starts_alone(start: Start) -> None:
    program, _ = workers(start, 3)
    names = [event["event"] for event in program.events if event["event"] in ("startup", "ready")]
    assert names[:2] == ["startup", "ready"]
    with program.connect() as client:
        assert client.get("/pid").json()["pid"] != program.process.pid


def test_a_killed_worker_is_replaced_and_the_others_serve_on(start: Start) -> None:
    program, pids = workers(start, 2)
    with program.connect() as client:
        mine = client.get("/pid").json()
        other = next(index for index in pids if index != mine["worker"])
        os.kill(pids[other], signal.SIGKILL)
        replacement = program.event("ready", worker=other)
        assert replacement["pid"] != pids[other]
        assert client.get("/pid").json() == mine
    assert program.process.poll() is None


def test_every_worker_killed_and_no_connection_is_refused(start: Start) -> None:
    program, pids = workers(start, 2)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    with program.connect() as client:  # waits in the listening socket that the supervisor holds
        assert client.get().status == 200


def test_a_worker_that_keeps_dying_is_replaced_more_and_more_slowly(start: Start) -> None:
    program, pids = workers(start, 1)
    pid, times = pids[0], []
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        pid = program.event("ready", worker=0)["pid"]
        times.append(time.monotonic() - killed)
    assert times[1] > 0.5  # the first is replaced at once
    assert times[2] > 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_within_a_second(start: Start, number: int) -> None:
    program, pids = workers(start, 2)
    clients = [program.connect() for _ in range(50)]
    for kind, client in enumerate(clients):
        client.get() if kind % 2 else client.send(b"GET / HTTP/1.1\r\n")
    assert program.stop(number) < 1.0
    assert program.process.returncode == 0
    assert all(gone(pid) for pid in pids.values())
    assert program.names().count("on_shutdown") == 2
    assert program.names().count("shutdown") == 2


def test_a_worker_that_hangs_is_killed(start: Start) -> None:
    program, pids = workers(start, 1)
    with program.connect() as client:
        client.request("/hang-loop")
        program.event("waiting", path="/hang-loop")
        assert program.stop() < 1.5
    assert program.process.returncode == 0
    assert gone(pids[0])


def test_workers_end_with_a_killed_supervisor(start: Start, tmp_path: Path) -> None:
    program, pids = workers(start, 2, environ={"TMPDIR": str(tmp_path)})  # nobody is left to remove its folder
    program.process.kill()
    assert all(gone(pid) for pid in pids.values())
    host, port = program.address
    with socket.socket() as sock:
        assert sock.connect_ex((host, port)) != 0


def test_a_start_that_fails_ends_with_the_workers_line_and_exit_code(start: Start) -> None:
    program = start(ready=False, workers=3, fail="worker")
    program.wait()
    assert program.process.returncode == 3
    assert program.errors == "error: the data folder is not writable\n"


def test_a_first_worker_that_is_killed_ends_with_a_line_that_says_so(start: Start) -> None:
    program = start(ready=False, workers=2, fail="killed")
    program.wait()
    assert program.process.returncode == 128 + signal.SIGKILL
    assert program.errors.count("\n") == 1
    assert "The first worker was killed before it was ready" in program.errors


def test_a_lifespan_that_fails_in_the_first_worker(start: Start) -> None:
    program = start(ready=False, workers=2, fail="raise")
    program.wait()
    assert program.process.returncode == 2
    assert program.errors == "error: ConfigError: limits.body: expected a number.\n"


def test_a_signal_during_the_first_start_ends_it(start: Start) -> None:
    program = start(ready=False, workers=2, fail="hang")
    program.event("startup")
    assert program.stop() < 1.0
    assert program.process.returncode == 0


def test_a_replacement_that_fails_does_not_end_the_others(start: Start, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    program, pids = workers(start, 2, fail="replacement", marker=str(marker))
    marker.touch()
    with program.connect() as client:
        mine = client.get("/pid").json()
        other = next(index for index in pids if index != mine["worker"])
        os.kill(pids[other], signal.SIGKILL)
        assert client.get().status == 200
        marker.unlink()
        program.event("ready", worker=other)
        assert client.get("/pid").json() == mine


REPLACED = "The file was replaced while the server runs, no worker starts from it: restart the server"


def test_a_worker_of_another_program_is_not_started_and_the_others_serve_on(start: Start, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text("one")
    program, pids = workers(start, 2, bundle=str(bundle))
    bundle.write_text("other")
    with program.connect() as client:
        mine = client.get("/pid").json()
        other = next(index for index in pids if index != mine["worker"])
        os.kill(pids[other], signal.SIGKILL)
        assert client.get("/pid").json() == mine
        os.kill(mine["pid"], signal.SIGKILL)  # nobody is left: whoever watches over the server starts it again
    program.wait()
    assert program.process.returncode == 1
    assert program.errors.count(REPLACED) == 2
    assert program.names().count("startup") == 2


def test_workers_share_a_private_metrics_folder_that_goes_with_them(start: Start) -> None:
    program, pids = workers(start, 2)
    folder = Path(_environ(pids[0])["PROMETHEUS_MULTIPROC_DIR"])
    assert folder == Path(_environ(pids[1])["PROMETHEUS_MULTIPROC_DIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
    for index in (0, 1):
        (folder / f"gauge_livesum_{pids[index]}.db").touch()
        (folder / f"counter_{pids[index]}.db").touch()
    os.kill(pids[1], signal.SIGKILL)
    program.event("ready", worker=1)
    assert not (folder / f"gauge_livesum_{pids[1]}.db").exists()
    assert (folder / f"counter_{pids[1]}.db").exists()
    assert (folder / f"gauge_livesum_{pids[0]}.db").exists()
    program.stop()
    assert not folder.exists()


def test_systemd_hears_from_the_supervisor_alone(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        program, pids = workers(start, 2, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"
        assert "NOTIFY_SOCKET" not in _environ(pids[0])
        program.stop()
        assert manager.recv(100) == b"STOPPING=1"
        manager.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_unix_socket_with_workers_is_removed_at_the_end_only(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    program, pids = workers(start, 2, bind=[f"unix:{path}"])
    os.kill(pids[0], signal.SIGTERM)  # a worker that ends by itself is replaced as well
    program.event("ready", worker=0)
    assert path.exists()
    with program.connect() as client:
        assert client.get().status == 200
    program.stop()
    assert not path.exists()


def _environ(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if pair)
