"""Every bound of one connection, and what a client sees of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serve.running import Client, Program

Start = Callable[..., Program]


def test_a_plain_answer_has_no_server_header(shared: Program) -> None:
    with shared.connect() as client:
        answer = client.get()
        assert (answer.status, answer.body) == (200, b"hello world\n")
        assert "date" in answer.headers
        assert "server" not in answer.headers


def test_head_and_body_leave_in_one_segment(shared: Program) -> None:
    with shared.connect() as client:
        client.request()
        assert client.sock.recv(65536).endswith(b"hello world\n")


def test_one_connection_serves_many_requests(start: Start) -> None:
    program = start()
    with program.connect() as client:
        for _ in range(1100):  # above Hypercorn's default of 1,000
            assert client.get().status == 200


def test_requests_sent_at_once_are_answered_in_order(shared: Program) -> None:
    with shared.connect() as client:
        client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n" * 3 + b"HEAD /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        assert [client.response().body for _ in range(3)] == [b"hello world\n"] * 3
        assert client.response(head=True).headers["content-length"] == "12"


def test_http10_is_closed_after_its_answer(shared: Program) -> None:
    with shared.connect() as client:
        client.send(b"GET /hello HTTP/1.0\r\n\r\n")
        assert client.until_closed().endswith(b"hello world\n")


def test_a_large_answer_arrives_whole(shared: Program) -> None:
    with shared.connect() as client:
        assert len(client.get("/large").body) == 5_000_000


def test_unix_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "clavitor.sock"
    program = start(bind=[f"unix:{path}"])
    with program.connect() as client:
        assert client.get("/scope").json()["client"] is None
    assert path.stat().st_mode & 0o777 == 0o660
    program.stop()
    assert not path.exists()


# --- time


def test_silence_after_accept_is_closed(shared: Program) -> None:
    with shared.connect() as client:
        began = time.monotonic()
        assert client.until_closed() == b""
        assert 0.4 < time.monotonic() - began < 1.5


def test_a_slow_head_is_answered_408_by_an_absolute_deadline(shared: Program) -> None:
    with shared.connect() as client:
        began = time.monotonic()
        client.sock.settimeout(0.1)
        received = b""
        for byte in b"GET /hello HTTP/1.1\r\nx-slow: " + b"a" * 200:  # each byte would restart a per-read timeout
            try:
                client.send(bytes([byte]))
                received += client.sock.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if received:
                break
        assert received.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 1.5


def test_a_slow_second_head_is_bounded_as_the_first(shared: Program) -> None:
    with shared.connect() as client:
        client.get()
        began = time.monotonic()
        client.send(b"GET /hel")
        assert client.until_closed().startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 1.5  # idle_timeout is 2


def test_an_idle_connection_is_closed(start: Start) -> None:
    program = start(settings={"idle_timeout": 0.4, "header_timeout": 5.0})
    with program.connect() as client:
        client.get()
        began = time.monotonic()
        assert client.until_closed() == b""
        assert 0.3 < time.monotonic() - began < 1.5


def test_a_long_handler_is_not_cut_off_by_any_read_timeout(start: Start) -> None:
    program = start(settings={"header_timeout": 0.1, "idle_timeout": 0.1, "body_timeout": 0.1})
    with program.connect() as client:
        assert client.get("/slow").body == b"slow but sure"


def test_a_client_that_never_reads_is_cut_off_and_its_handler_cancelled(shared: Program) -> None:
    with shared.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.request("/flood")
        shared.event("waiting", path="/flood")
        shared.event("ended", path="/flood", within=5)


def test_a_client_that_never_reads_is_cut_off_without_the_kernels_help(start: Start, tmp_path: Path) -> None:
    program = start(bind=[f"unix:{tmp_path / 's'}"], settings={"send_timeout": 0.5})  # no TCP_USER_TIMEOUT here
    with program.connect() as client:
        client.request("/flood")
        program.event("waiting", path="/flood")
        program.event("ended", path="/flood", within=5)


def test_answers_nobody_reads_do_not_pile_up(shared: Program) -> None:
    with shared.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sock.settimeout(3)
        with pytest.raises((ConnectionError, TimeoutError)):
            while True:  # the server stops reading, then closes
                client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n" * 100)


def test_memory_of_a_body_nobody_reads_is_bounded(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.send(b"PUT /ignore-body HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
        program.event("waiting", path="/ignore-body")
        client.sock.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100_000_000:
                sent += client.sock.send(b"b" * 65536)
        assert _resident(program) < 200_000_000
        assert sent < 20_000_000
        with program.connect() as other:
            other.get("/release")
        assert client.response().body == b"released"


def _resident(program: Program) -> int:
    pages = int(Path(f"/proc/{program.process.pid}/statm").read_text().split()[1])
    return pages * 4096


# --- the handler lives as long as its connection


@pytest.mark.parametrize("path", ["/wait", "/stream"])
def test_a_handler_is_cancelled_when_its_client_goes(shared: Program, path: str) -> None:
    with shared.connect() as client:
        client.request(path)
        shared.event("waiting", path=path)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST
    shared.event("ended", path=path, within=2)


def test_a_handler_is_cancelled_after_an_orderly_close(shared: Program) -> None:
    with shared.connect() as client:
        client.request("/wait")
        shared.event("waiting", path="/wait")
    shared.event("cancelled", path="/wait", within=2)


def test_a_handler_that_waits_for_the_disconnect_is_told(shared: Program) -> None:
    with shared.connect() as client:
        client.request("/disconnect")
        shared.event("waiting", path="/disconnect")
    assert shared.event("told", within=2)["type"] == "http.disconnect"


def test_a_client_that_half_closes_still_gets_its_answer(shared: Program) -> None:
    with shared.connect() as client:
        client.request("/slow")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.response().body == b"slow but sure"
        assert client.until_closed() == b""


def test_steps_after_the_answer_are_not_cut_off_by_a_client_that_closes(shared: Program) -> None:
    with shared.connect() as client:
        client.get("/tail")
    shared.event("tail done", within=2)


def test_a_failing_handler_is_a_500_problem_and_the_connection_goes_on(shared: Program) -> None:
    with shared.connect() as client:
        answer = client.get("/crash")
        assert (answer.status, answer.code) == (500, "internal_error")
        assert b"broken" not in answer.body
        assert client.get().status == 200


def test_a_handler_failing_in_its_answer_ends_the_connection_unfinished(shared: Program) -> None:
    with shared.connect() as client:
        client.request("/crash-late")
        assert not client.until_closed().endswith(b"0\r\n\r\n")


# --- the number of connections


def test_above_the_cap_503_at_once_without_the_application(start: Start) -> None:
    program = start(settings={"max_connections": 3, "retry_after": 7})
    clients = [program.connect() for _ in range(3)]
    for client in clients:
        assert client.get().status == 200
    with program.connect() as refused:
        began = time.monotonic()
        answer = refused.request().response()
        assert (answer.status, answer.code) == (503, "too_many_connections")
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["connection"] == "close"
        assert refused.until_closed() == b""
        assert time.monotonic() - began < 0.5
    clients.pop().close()
    assert _eventually_served(program)
    for client in clients:
        client.close()
    assert [event for event in program.events if event["event"] == "startup"]


def _eventually_served(program: Program) -> bool:
    for _ in range(100):  # the server sees the close when it sees it
        with program.connect() as client:
            if client.request().response().status == 200:
                return True
    return False


def test_refused_connections_are_themselves_bounded(start: Start) -> None:
    program = start(settings={"max_connections": 1, "drain_timeout": 5.0})
    with program.connect() as served:
        served.get()
        flood = [program.connect() for _ in range(60)]  # none of them reads or closes
        flood[-1].sock.recv(1)  # all before it have been accepted
        descriptors = len(list(Path(f"/proc/{program.process.pid}/fd").iterdir()))
        assert descriptors < 50
        assert served.get().status == 200
        for client in flood:
            client.close()


# --- heads


def test_an_oversized_head_is_431_with_a_clean_close(shared: Program) -> None:
    for size in (20_000, 200_000):  # below and above what is read at once
        with shared.connect() as client:
            client.request("/hello", "x-large: " + "a" * size)
            answer = client.response()
            assert (answer.status, answer.code) == (431, "headers_too_large")
            assert client.until_closed() == b""


def test_an_endless_head_is_431(shared: Program) -> None:
    with shared.connect() as client:
        client.send(b"GET /hello HTTP/1.1\r\nx-large: " + b"a" * 40_000)
        assert client.response().status == 431


def test_too_many_headers_are_431(shared: Program) -> None:
    with shared.connect() as client:
        assert client.get("/hello", *[f"x-{number}: 1" for number in range(150)]).status == 431


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /h\xc3\xa9llo HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"PUT /echo HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\n\r\n", 400),
        (b"PUT /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400),
        (b"PUT /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"PUT /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n", 400),
    ],
)
def test_bad_requests_are_answered_and_closed(shared: Program, data: bytes, status: int) -> None:
    with shared.connect() as client:
        client.send(data)
        answer = client.response()
        assert answer.status == status
        assert answer.code
        assert client.until_closed() == b""


def test_upgrades_are_not_taken(shared: Program) -> None:
    headers = ["connection: upgrade", "sec-websocket-key: x", "sec-websocket-version: 13"]
    for protocol in ("websocket", "h2c"):
        with shared.connect() as client:
            assert client.get("/hello", f"upgrade: {protocol}", *headers).status == 200


# --- bodies left over


def test_an_early_answer_to_a_small_body_keeps_the_connection(shared: Program) -> None:
    with shared.connect() as client:
        assert client.request("/early", method="PUT", body=b"b" * 200_000).response().status == 401
        assert client.get().status == 200


def test_an_early_answer_is_readable_although_the_client_still_sends(shared: Program) -> None:
    with shared.connect() as client:
        client.sock.settimeout(5)
        with suppress(ConnectionError):
            client.request("/early", method="PUT", body=b"b" * 900_000)  # above drain_bytes
        assert client.response().status == 401


def test_the_drain_after_an_early_answer_is_bounded_in_time(shared: Program) -> None:
    with shared.connect() as client:
        client.send(b"PUT /early HTTP/1.1\r\nhost: x\r\ncontent-length: 200\r\n\r\n")
        assert client.response().status == 401
        began = time.monotonic()
        assert client.until_closed() == b""
        assert time.monotonic() - began < 1.5


def test_continue_is_sent_when_the_handler_asks_for_the_body(shared: Program) -> None:
    with shared.connect() as client:
        client.send(b"PUT /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n")
        assert client.response().status == 100
        assert client.send(b"abc").response().body == b"3"


def test_no_continue_before_a_refusal(shared: Program) -> None:
    with shared.connect() as client:
        client.send(b"PUT /early HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n")
        answer = client.response()
        assert answer.status == 401
        assert answer.headers["connection"] == "close"


# --- the seam


@pytest.mark.parametrize("path", ["/hello", "/large", "/slow"])
def test_hypercorns_own_protocols_fit_the_same_seam(start: Start, path: str) -> None:
    program = start(stock=True)
    with program.connect() as client:
        assert client.get(path).status == 200
        assert client.get(path).status == 200
        client.request("/wait")
        program.event("waiting")
    program.event("cancelled", path="/wait")
    with Client(program.address) as client:
        assert client.request("/echo", method="PUT", body=b"b" * 100_000).response().body == b"100000"
    assert program.stop() < 1.5
    assert program.process.returncode == 0
