"""As many as there are seats, one more, and the end (commercial.md section 2)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h2.events
import pytest
from clavitor_commercial_tarpit.metrics import TarpitMetrics
from clavitor_commercial_tarpit.seats import Seats, affordable
from clavitor_commercial_tarpit.wheel import Wheel

from clavitor_host.api import Metrics
from clavitor_host.testing.process import ServerProcess
from tests.serve import certificates
from tests.serve.running import Client

BODY = b'{"code":"not_found"}         \n'
PROGRAM = (sys.executable, str(Path(__file__).with_name("program.py")))
Serve = Callable[..., ServerProcess]
Connect = Callable[..., Any]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that end with the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> ServerProcess:
            return stack.enter_context(ServerProcess(tmp_path / "server", program=PROGRAM, **options))

        yield start


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[certificates.Pair, certificates.Pair]:
    """A certificate authority, and a server's certificate by it."""
    folder = tmp_path_factory.mktemp("pki")
    ca = certificates.make(folder, "ca")
    return ca, certificates.make(folder, "server", ca)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connect callers that hang up in the end."""
    with ExitStack() as stack:
        yield lambda server, **options: stack.enter_context(Client(server.address, **options))


def is_held(client: Client) -> bool:
    """Read the head of an answer and say which it is; the plain one is read to its end."""
    answer = client.response(head=True)
    size = int(answer.headers["content-length"])
    assert answer.status == 404
    if size == 30:
        return True
    while len(client.rest) < size:
        client.rest += client.sock.recv(65536)
    client.rest = b""
    return False


def metrics(server: ServerProcess) -> dict[str, float]:
    with Client(server.address) as client:
        lines = client.get("/api/v1/prometheus").body.decode().splitlines()
    found = (line.split() for line in lines if line.startswith("clavitor_tarpit_"))
    return {name.removeprefix("clavitor_tarpit_"): float(value) for name, value in found}


def test_a_thousand_are_held_the_next_is_not_and_sigterm_ends_them_all(serve: Serve, connect: Connect) -> None:
    server = serve()
    began = time.monotonic()
    clients = [connect(server).request("/nowhere") for _ in range(1000)]
    assert all(is_held(client) for client in clients)
    assert time.monotonic() - began < 20, "too slow a machine for this test: the first have ended"
    last = connect(server)
    asked = time.monotonic()
    answer = last.get("/nowhere")
    assert (answer.status, answer.code) == (404, "not_found")
    assert time.monotonic() - asked < 0.5
    assert last.get("/healthz").status == 200  # its connection goes on, and so does the server
    found = metrics(server)
    assert (found["held"], found["served_total"], found["refused_total"]) == (1000, 1000, 1)

    clients.pop().close()
    assert is_held(connect(server).request("/nowhere"))

    began = time.monotonic()
    server.process.terminate()
    answers = [client.until_closed() for client in clients]
    assert time.monotonic() - began < 1.0
    assert server.wait() == 0
    assert time.monotonic() - began < 1.0
    assert set(answers) == {BODY}  # to the end, at once
    assert "ERROR" not in server.last_log


def test_the_answer_ends_whole_also_for_a_caller_that_went_on_sending(serve: Serve, connect: Connect) -> None:
    server = serve()
    client = connect(server)
    client.request("/wp-login.php")
    assert client.response(head=True).status == 404
    client.send(b"GET /more HTTP/1.1\r\nhost: x\r\n\r\n")
    server.terminate()
    assert client.until_closed() == BODY


def test_workers_share_the_seats(serve: Serve, connect: Connect) -> None:
    server = serve(workers=2)
    clients: list[Any] = []
    held: Counter[str] = Counter()
    refusing: set[str] = set()
    until = time.monotonic() + 20
    while len(refusing) < 2 and time.monotonic() < until:
        for client in [connect(server).request("/nowhere") for _ in range(50)]:  # at once, so that both take some
            headers = client.response(head=True).headers
            worker = headers["x-request-id"].rpartition("-")[0]  # begins with the process
            if headers["content-length"] == "30":
                held[worker] += 1
                clients.append(client)
            else:
                refusing.add(worker)
                client.close()
    assert sorted(held.values()) == [500, 500]
    assert metrics(server)["held"] == 1000
    began = time.monotonic()
    server.process.terminate()
    for client in clients:
        client.until_closed()
    assert server.wait() == 0
    assert time.monotonic() - began < 1.5  # the supervisor's end is in it


def test_the_servers_own_descriptors_are_left_to_it(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (320, limits[1]))
    try:
        # raising the soft limit is what it tries first: here the hard one is in the way
        server = serve(prefix=("prlimit", "--nofile=320:320", "--"), config="[limits]\nmax_connections = 50\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    clients = [connect(server).request("/nowhere") for _ in range(12)]
    found = [is_held(client) for client in clients]
    assert found == [True] * 9 + [False] * 3  # 320 less 50, 5 and 256
    assert "fewer seats" in server.last_log
    assert [connect(server).get("/healthz").status for _ in range(40)] == [200] * 40


# --- where the socket cannot be had


def tls_config(pair: Any, connections: int) -> str:
    cert = f'[tls]\ncert = "{pair[1].certificate}"\nkey = "{pair[1].key}"\n'
    return f"{cert}[limits]\nmax_connections = {connections}\n"


def context(pair: Any, *alpn: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=pair[0].certificate)
    made.set_alpn_protocols(list(alpn))
    return made


def test_over_tls_half_of_the_connections_at_most_are_held(serve: Serve, connect: Connect, pair: Any) -> None:
    server = serve(config=tls_config(pair, 20))
    tls = context(pair, "http/1.1")
    clients = [connect(server, tls=tls) for _ in range(11)]
    began = time.monotonic()
    assert [is_held(client.request("/nowhere")) for client in clients] == [True] * 10 + [False]
    assert time.monotonic() - began < 1.0  # each head at once, before any byte
    began = time.monotonic()
    received = clients[0].rest + clients[0].sock.recv(100)  # what came while the others shook hands
    for _ in range(3):
        received += clients[0].sock.recv(100)
    assert BODY.startswith(received)
    assert 1.9 < time.monotonic() - began < 4.1
    clients[5].close()
    until = time.monotonic() + 0.8
    while not (freed := is_held(clients[10].request("/nowhere"))) and time.monotonic() < until:
        pass
    assert freed
    began = time.monotonic()
    server.process.terminate()
    assert clients[3].until_closed() == BODY
    assert server.wait() == 0
    assert time.monotonic() - began < 1.0
    assert "ERROR" not in server.last_log


def test_over_http2_every_stream_has_a_seat_of_its_own(serve: Serve, connect: Connect, pair: Any) -> None:
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    server = serve(config=tls_config(pair, 8))
    client = connect(server, tls=context(pair, "h2"))
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    pseudo = [(":method", "GET"), (":path", "/nowhere"), (":scheme", "https"), (":authority", "localhost")]
    for stream in (1, 3, 5, 7, 9):
        connection.send_headers(stream, pseudo, end_stream=True)
    connection.send_headers(11, [(":method", "HEAD"), *pseudo[1:]], end_stream=True)
    client.send(connection.data_to_send())
    heads: dict[int, dict[str, str]] = {}
    bodies: dict[int, bytes] = {}
    began = time.monotonic()
    while bodies.get(1, b"") != b'{"':
        for event in connection.receive_data(client.sock.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived):
                heads[event.stream_id] = {bytes(name).decode(): bytes(value).decode() for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
    assert 1.5 < time.monotonic() - began < 2.6
    assert {head[":status"] for head in heads.values()} == {"404"}
    assert [heads[stream]["content-length"] == "30" for stream in (1, 3, 5, 7, 9, 11)] == [True] * 4 + [False] * 2
    assert not any("connection" in head for head in heads.values())
    connection.reset_stream(1)
    connection.send_headers(13, pseudo, end_stream=True)
    client.send(connection.data_to_send())
    while 13 not in heads:
        for event in connection.receive_data(client.sock.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived):
                heads[event.stream_id] = {bytes(n).decode(): bytes(v).decode() for n, v in event.headers}
    assert server.terminate() < 1.0
    assert "ERROR" not in server.last_log


# --- the parts


def seats(limit: int = 10, streams: int = 2) -> Seats:
    return Seats(limit, streams, TarpitMetrics(Metrics()))


def test_a_seat_is_released_once_and_also_when_its_answer_never_began() -> None:
    all_of_them = seats(2)
    first, second = (all_of_them.take(streams=False) for _ in range(2))
    assert all_of_them.take(streams=False) is None
    assert first is not None
    first.release()
    first.release()
    assert all_of_them.taken == 1
    gc.disable()
    try:
        del second
        assert all_of_them.taken == 0
    finally:
        gc.enable()


async def test_streams_beyond_their_share_get_everything_at_once() -> None:
    all_of_them = seats(10, 1)
    wheel = Wheel(asyncio.get_running_loop())
    keep = all_of_them.take(streams=True)
    assert keep is not None
    assert all_of_them.take(streams=True) is None
    late = all_of_them.take(streams=False)
    assert late is not None
    began = time.monotonic()
    assert [piece async for piece in wheel.drip(b"body", late)] == [b"body"]
    assert time.monotonic() - began < 0.5
    wheel.stop()


async def test_the_wheel_stands_still_when_nobody_is_held() -> None:
    all_of_them = seats()
    wheel = Wheel(asyncio.get_running_loop())
    assert wheel.idle
    seat = all_of_them.take(streams=True)
    assert seat is not None
    stream = wheel.drip(b"ab", seat)
    assert await anext(stream) == b"a"
    assert not wheel.idle
    with contextlib.suppress(StopAsyncIteration):
        assert await anext(stream) == b"b"
        await anext(stream)
    await asyncio.sleep(1.1)
    assert wheel.idle
    assert all_of_them.taken == all_of_them.streaming == 0
    wheel.stop()


async def test_a_loop_that_was_busy_makes_up_for_the_bytes_it_owes() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    seat = seats().take(streams=True)
    assert seat is not None
    stream = wheel.drip(b"abcdef", seat)
    assert await anext(stream) == b"a"
    began = time.monotonic()
    time.sleep(2.1)  # noqa: ASYNC251 - the point
    assert await anext(stream) == b"bc"
    assert await anext(stream) == b"d"
    assert 2.9 < time.monotonic() - began < 3.2
    await stream.aclose()
    wheel.stop()


def test_seats_are_as_many_as_the_limit_of_open_files_affords(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda which, given: limits.update(now=given))
    assert affordable(1000, 1000) == 1000
    assert limits["now"] == (1000 + 100 + 256 + 1000, 4096)
    limits["now"] = (1024, 1500)
    assert affordable(1000, 1000) == 1500 - 1356
    limits["now"] = (1024, 1024)
    assert affordable(1000, 1000) == 0
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert affordable(1000, 1000) == 1000
