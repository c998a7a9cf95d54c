"""Request bodies within bounds, over real connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from clavitor_host.serve.limits import BodyLimits
from clavitor_host.serve.settings import ServeSettings
from tests.serve.running import Program

Start = Callable[..., Program]
PUT = b"PUT /echo HTTP/1.1\r\nhost: x\r\n"


def test_a_body_within_the_limit_passes(shared: Program) -> None:
    with shared.connect() as client:
        assert client.request("/echo", method="PUT", body=b"b" * 1_000_000).response().body == b"1000000"
        chunked = b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        assert client.send(PUT + chunked).response().body == b"7"


def test_a_large_announcement_is_413_before_any_body_and_without_the_application(shared: Program) -> None:
    with shared.connect() as client:
        client.send(PUT + b"content-length: 1000001\r\n\r\n")
        answer = client.response()
        assert (answer.status, answer.code) == (413, "body_too_large")
        assert answer.json()["limit"] == 1_000_000
        assert answer.headers["connection"] == "close"
    with shared.connect() as client:
        client.send(PUT + b"expect: 100-continue\r\ncontent-length: 1000001\r\n\r\n")
        assert client.response().status == 413
    with shared.connect() as client:
        client.get()
    shared.event("ended", path="/hello")
    assert not [e for e in shared.events[-1:] if e.get("path") == "/echo"]


def test_the_413_is_readable_by_a_client_that_sends_first(shared: Program) -> None:
    with shared.connect() as client:
        client.send(PUT + b"content-length: 1200000\r\n\r\n" + b"b" * 200_000)  # drain_bytes is 300,000
        assert client.response().status == 413
        assert client.until_closed() == b""


def test_the_drain_after_a_413_is_bounded_in_bytes_and_time(shared: Program) -> None:
    with shared.connect() as client, pytest.raises(ConnectionError):
        client.send(PUT + b"content-length: 900000000\r\n\r\n")
        for _ in range(2000):
            client.send(b"b" * 65536)
    with shared.connect() as client:
        client.send(PUT + b"content-length: 900000000\r\n\r\n")
        client.response()
        began = time.monotonic()
        client.until_closed()
        client.sock.settimeout(3)
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 3:
                client.send(b"b")
        assert time.monotonic() - began < 2


def test_chunks_are_counted(shared: Program) -> None:
    with shared.connect() as client:
        client.send(PUT + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(17):
            client.send(b"10000\r\n" + b"b" * 0x10000 + b"\r\n")
        answer = client.response()
        assert (answer.status, answer.code) == (413, "body_too_large")


def test_a_stalled_body_is_408(shared: Program) -> None:
    with shared.connect() as client:
        client.send(PUT + b"content-length: 10\r\n\r\nhalf")
        began = time.monotonic()
        answer = client.response()
        assert (answer.status, answer.code) == (408, "body_timeout")
        assert answer.headers["connection"] == "close"
        assert 0.4 < time.monotonic() - began < 2


def test_a_body_that_dribbles_is_408(start: Start) -> None:
    program = start(settings={"body_timeout": 0.4, "body_min_rate": 1000}, limit=1000)
    with program.connect() as client:
        client.send(PUT + b"content-length: 1000\r\n\r\n")
        client.sock.settimeout(0.1)
        began = time.monotonic()
        while time.monotonic() - began < 5:
            client.send(b"b")  # never silent for 0.4 s
            try:
                assert client.response().status == 408
                break
            except TimeoutError:
                continue
        assert time.monotonic() - began < 2


def test_a_slow_application_is_not_taken_for_a_slow_client(start: Start) -> None:
    program = start(settings={"body_timeout": 0.2}, limit=1000)
    with program.connect() as client:
        client.send(b"PUT /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        assert client.response().status == 200


def test_both_length_and_coding_are_400(shared: Program) -> None:
    with shared.connect() as client:
        client.send(PUT + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        answer = client.response()
        assert (answer.status, answer.code) == (400, "invalid_content_length")
        assert client.until_closed() == b""


@pytest.mark.parametrize("lengths", [[b"3", b"4"], [b"-1"], [b"3,3"], [b"1" * 30], [b"\xb2"], [b""]])
async def test_a_length_that_is_no_number_is_400_on_any_server(lengths: list[bytes]) -> None:
    sent, called = await call([(b"content-length", length) for length in lengths])
    assert sent[0]["status"] == 400
    assert not called


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_request_without_a_body_passes_untouched(method: str) -> None:
    async def receive() -> None: ...

    async def send(message: object) -> None: ...

    seen: list[object] = []

    async def app(scope: object, receive: object, send: object) -> None:
        seen.extend((scope, receive, send))

    scope = {"type": "http", "method": method, "path": "/", "http_version": "1.1", "headers": [(b"host", b"x")]}
    await BodyLimits(app, lambda method, path: 0, ServeSettings())(scope, receive, send)
    assert seen[0] is scope
    assert seen[1] is receive
    assert seen[2] is send


async def test_the_limit_may_differ_by_method_and_path() -> None:
    def limit_for(method: str, path: str) -> int:
        return {"PUT": 5, "POST": 4}[method] if path == "/small" else 1

    assert not (await call([(b"content-length", b"5")], path="/small", limit_for=limit_for))[0]
    for method, path in (("POST", "/small"), ("PUT", "/")):
        sent, _ = await call([(b"content-length", b"5")], path=path, limit_for=limit_for, method=method)
        assert sent[0]["status"] == 413


async def test_time_that_the_application_takes_does_not_count_against_the_client() -> None:
    pieces = [{"type": "http.request", "body": b"b", "more_body": more} for more in (True, True, False)]

    async def receive() -> object:
        await asyncio.sleep(0.01)
        return pieces.pop(0)

    async def send(message: object) -> None: ...

    async def app(scope: object, receive: Callable[[], Awaitable[object]], send: object) -> None:
        for _ in range(3):
            await receive()
            await asyncio.sleep(0.15)  # in all more than body_timeout

    scope = {
        "type": "http",
        "method": "PUT",
        "path": "/",
        "http_version": "1.1",
        "headers": [(b"content-length", b"3")],
    }
    await BodyLimits(app, lambda method, path: 3, ServeSettings(body_timeout=0.1))(scope, receive, send)
    assert not pieces


async def call(
    headers: list[tuple[bytes, bytes]],
    path: str = "/",
    limit_for: Callable[[str, str], int] = lambda method, path: 100,
    method: str = "PUT",
) -> tuple[list[dict[str, object]], list[object]]:
    sent: list[dict[str, object]] = []
    called: list[object] = []

    async def app(scope: object, receive: object, send: object) -> None:
        called.append(scope)

    async def receive() -> None: ...

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "http_version": "1.1", "headers": headers}
    await BodyLimits(app, limit_for, ServeSettings())(scope, receive, send)
    return sent, called
