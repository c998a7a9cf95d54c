"""Listening sockets and the errors of addresses that cannot be had."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clavitor_host.errors import ConfigError, StartError
from clavitor_host.serve.sockets import describe, from_fds, from_systemd, listening, parse_address
from tests.serve.running import Client, Program


@pytest.mark.parametrize(
    ("bind", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8400", ("::1", 8400)), ("vault.example:0", ("vault.example", 0))],
)
def test_addresses(bind: str, expected: tuple[str, int]) -> None:
    assert parse_address(bind) == expected


@pytest.mark.parametrize(
    "bind", ["8400", ":8400", "::1:8400", "[::1]", "host:", "host:port", "host:-1", "h:65536", "h:٣"]
)
def test_what_is_no_address_is_a_config_error(bind: str) -> None:
    with pytest.raises(ConfigError, match=r"^bind: "):
        parse_address(bind)


def test_ipv4_ipv6_and_names() -> None:
    with listening(["127.0.0.1:0", "[::1]:0", "localhost:0"]) as sockets:
        assert [sock.family for sock in sockets[:2]] == [socket.AF_INET, socket.AF_INET6]
        assert describe(sockets[0]).startswith("http://127.0.0.1:")
        assert describe(sockets[1], tls=True).startswith("https://[::1]:")
    assert all(sock.fileno() == -1 for sock in sockets)


def test_a_taken_port_is_one_line_that_names_it() -> None:
    with listening(["127.0.0.1:0"]) as sockets:
        bind = f"127.0.0.1:{sockets[0].getsockname()[1]}"
        with pytest.raises(StartError, match=f"^{bind} is already in use; [^\n]*$"), listening([bind]):
            pass


def test_a_taken_port_ends_the_program_with_one_line(start: Callable[..., Program]) -> None:
    first = start()
    host, port = first.address
    second = start(ready=False, bind=[f"{host}:{port}"])
    second.wait()
    assert second.process.returncode == 2
    assert second.errors.startswith(f"error: StartError: {host}:{port} is already in use")
    assert second.errors.count("\n") == 1


def test_an_address_of_another_machine_and_an_unknown_name() -> None:
    with (
        pytest.raises(StartError, match=r"192\.0\.2\.1:8400 is not an address of this machine"),
        listening(["192.0.2.1:8400"]),
    ):
        pass
    with pytest.raises(StartError, match="host name cannot be resolved"), listening(["no-such-host.invalid:8400"]):
        pass


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening([f"unix:{path}"], unix_mode=0o600) as sockets:
        assert path.stat().st_mode & 0o777 == 0o600
        assert describe(sockets[0]) == f"unix:{path}"
    assert not path.exists()


def test_a_socket_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening([f"unix:{path}"]):
        with pytest.raises(StartError, match=f"unix:{path} is already in use"), listening([f"unix:{path}"]):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(StartError, match="exists and is not a socket"), listening([f"unix:{path}"]):
        pass
    assert path.read_text() == "precious"


def test_a_socket_file_taken_over_by_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening([f"unix:{path}"]):
        path.unlink()
        successor = socket.socket(socket.AF_UNIX)
        successor.bind(str(path))
    assert path.exists()
    successor.close()


@pytest.mark.parametrize("name", ["no/such/folder/s", "n" * 200])
def test_a_path_that_cannot_be_bound_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartError, match="cannot be bound"), listening([f"unix:{tmp_path / name}"]):
        pass


def test_a_failing_bind_closes_those_before_it() -> None:
    with listening(["127.0.0.1:0"]) as sockets:
        port = sockets[0].getsockname()[1]
    with pytest.raises(ConfigError), listening([f"127.0.0.1:{port}", "nonsense"]):
        pass
    with listening([f"127.0.0.1:{port}"]):
        pass


# --- inherited


def test_systemd_variables_for_another_process_are_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert from_systemd(environ) == []
    assert environ


def test_a_descriptor_that_does_not_listen_is_refused() -> None:
    with socket.socket() as sock, pytest.raises(StartError, match="is not a listening stream socket"):
        from_fds([os.dup(sock.fileno())])
    with pytest.raises(StartError, match="is not a listening stream socket"):
        from_fds([9999])


def test_socket_activation() -> None:
    """The program takes the sockets that a service manager has opened, in place of its own."""
    program = Path(__file__).with_name("program.py")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        launcher = (
            "import os, sys\n"
            f"os.dup2({listener.fileno()}, 3); os.set_inheritable(3, True)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        )
        command = [sys.executable, "-c", launcher, str(program), "{}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[listener.fileno()]) as process:
            assert process.stdout is not None
            while b'"ready"' not in process.stdout.readline():
                pass
            with Client(listener.getsockname()) as client:
                assert client.get().status == 200
            process.terminate()
            process.stdout.read()
        assert process.returncode == 0
