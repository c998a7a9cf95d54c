"""The community edition talks to nobody: its system calls over start, use, shutdown and every offline command.

What counts is decided in `tracing.strangers`: no connection, no datagram, no name lookup, no other listener, no other
program, and no UNIX socket to a name service cache, a system log or a service manager.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from clavitor_host.testing import postgres
from clavitor_host.testing.process import ServerProcess
from tests.bundles import tracing, usage
from tests.bundles.places import INTERPRETER, Built, fresh_database, program

pytestmark = pytest.mark.skipif(tracing.missing() is not None, reason=str(tracing.missing()))

EVERYTHING = """
import os, socket, subprocess
def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError:
        pass
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
attempt(socket.getaddrinfo, "nobody.invalid", 80)
attempt(socket.create_connection, ("127.0.0.1", 9))
attempt(socket.create_connection, ("::1", 9))
attempt(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect, "/run/nobody")
attempt(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto, b"x", "/run/nobody/log")
attempt(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect, "\\0abstract")
server = socket.create_server(("127.0.0.2", 0))
subprocess.run(["/bin/true"])
"""
SEEN = (
    "sends: sendto(3<UDP:",
    "connects: connect(3<TCP:",
    "connects: connect(3<TCPv6:",
    '"/run/nobody"',
    '"/run/nobody/log"',
    '@"abstract"',
    "binds: bind(",
    'inet_addr("127.0.0.2")',
    "starts /bin/true",
)


def test_the_tracer_sees_every_way_out(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    running = subprocess.Popen([*tracing.prefix(file), INTERPRETER, "-I", "-c", EVERYTHING])
    assert running.wait(60) == 0
    found = tracing.strangers(tracing.read(file, running.pid), listener="127.0.0.1:1", programs={INTERPRETER})
    text = "\n".join(found)
    assert [way for way in SEEN if way not in text] == [], text


@pytest.fixture
def database_url(kind: str) -> Iterator[str | None]:
    """None for SQLite in the data folder."""
    if kind == "sqlite":
        yield None
        return
    if reason := postgres.missing():
        pytest.skip(reason)
    with fresh_database() as url:
        yield url


def peers_of(url: str | None) -> set[str]:
    """Return where a program may connect to for its database."""
    if url is None:
        return set()
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])[0]
    port = parts.port or 5432
    return {f"unix:{host}/.s.PGSQL.{port}"} if host.startswith("/") else {f"{host}:{port}"}


@pytest.mark.parametrize(("kind", "workers"), [("sqlite", 1), ("postgresql", 2)])
def test_a_community_server_serves_and_does_nothing_else(
    built: Built, tmp_path: Path, database_url: str | None, workers: int
) -> None:
    command, database = program("community", built), peers_of(database_url)
    trace = tmp_path / "serve.trace"
    server = ServerProcess(
        tmp_path / "server",
        program=command,
        prefix=tracing.prefix(trace),
        database_url=database_url,
        workers=workers,
    )
    with server:
        listener = "{}:{}".format(*server.address)
        usage.use(server)
        flags = ["--data-dir", str(server.data_dir), "--bind", listener]
        for number, arguments in enumerate(usage.commands(tmp_path)[: None if workers == 1 else 1]):
            file = tmp_path / f"{number}.trace"
            running = subprocess.Popen(
                [*tracing.prefix(file), *command, *arguments, *flags],
                env=server.environ,
                cwd=server.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            assert running.communicate(timeout=60)[1] == b""
            calls = tracing.read(file, running.pid)
            own_server = {listener} if arguments[0] in usage.ASK_THE_SERVER else set()
            assert tracing.contacted(calls) <= database | own_server
            assert tracing.strangers(calls, listener="none", peers=database | own_server, programs={INTERPRETER}) == []
        server.terminate()
    calls = tracing.read(trace, server.pid)
    assert tracing.contacted(calls) == database
    assert tracing.strangers(calls, listener=listener, peers=database, programs={INTERPRETER}) == []
    assert sum(call.name == "accept4" and f"[{listener}->" in call.result for call in calls) >= 3
    assert len({call.process for call in calls if call.name == "execve"}) == (1 if workers == 1 else workers + 1)


def test_the_same_trace_shows_where_a_commercial_server_is_told_to_report(built: Built, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as telemetry:
        address = "{}:{}".format(*telemetry.getsockname())
        trace = tmp_path / "serve.trace"
        server = ServerProcess(
            tmp_path / "server",
            program=program("commercial", built),
            prefix=tracing.prefix(trace),
            config=f'[plugins.commercial]\ntelemetry_host = "http://{address}"\ntelemetry_interval = 10\n',
        )
        with server:
            listener = "{}:{}".format(*server.address)
            telemetry.settimeout(60)
            telemetry.accept()[0].close()
            server.terminate()
    calls = tracing.read(trace, server.pid)
    assert tracing.contacted(calls) == {address}
    found = tracing.strangers(calls, listener=listener, programs={INTERPRETER})
    assert any(line.startswith("connects: ") for line in found)


def test_a_commercial_server_without_its_table_serves_and_does_nothing_else(built: Built, tmp_path: Path) -> None:
    trace = tmp_path / "serve.trace"
    server = ServerProcess(tmp_path / "server", program=program("commercial", built), prefix=tracing.prefix(trace))
    with server:
        listener = "{}:{}".format(*server.address)
        usage.use(server)
        server.terminate()
    calls = tracing.read(trace, server.pid)
    assert tracing.strangers(calls, listener=listener, programs={INTERPRETER}) == []
