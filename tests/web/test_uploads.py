"""Large bodies over a real server: streamed in flat memory, bounded by route, and never whole when they are not."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from clavitor_host.errors import Problem
from clavitor_host.testing.process import ServerProcess
from clavitor_host.web.gateway import _BodyReader
from tests.web.uploads import LARGEST, MIB

CONFIG = """
[limits]
body_timeout = 0.6
body_bytes = 100000
"""
PROGRAM = (sys.executable, str(Path(__file__).with_name("uploads.py")))
PIECE = bytes(range(256)) * 4096
"""One MiB."""
PATIENCE = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("uploads")
    root = str(Path(__file__).parents[2])
    with ServerProcess(folder, config=CONFIG, program=PROGRAM, environ={"PYTHONPATH": root}) as server:
        yield server
        server.terminate()
        assert server.process.returncode == 0
        assert " ERROR " not in server.log
        assert "Traceback" not in server.log


def head(path: str, *lines: str, method: str = "PUT") -> bytes:
    return "\r\n".join([f"{method} /api/v1/uploads/{path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


class Conversation:
    """A connection over which anything can be said. It is read through one buffer: an answer may come with the one
    before it."""

    def __init__(self, server: ServerProcess) -> None:
        self.sock = socket.create_connection(server.address, timeout=PATIENCE)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()
        self.sock.close()

    def say(self, *parts: bytes) -> Conversation:
        with suppress(ConnectionError):
            for part in parts:
                self.sock.sendall(part)
        return self

    def answer(self) -> tuple[int, dict[str, Any], bytes]:
        """Return status, JSON and head of one answer."""
        lines = b""
        while (line := self._file.readline()) not in (b"\r\n", b""):
            lines += line
        length = re.search(rb"content-length: (\d+)", lines, re.IGNORECASE)
        status = re.match(rb"HTTP/1.1 (\d+) ", lines)
        if status is None:
            return 0, {}, lines
        body = self._file.read(int(length[1])) if length else b"{}"
        return int(status[1]), json.loads(body or b"{}"), lines


def logged(server: ServerProcess, text: str) -> str:
    """Wait for a line of the log that contains `text`, and return it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for line in server.log.splitlines():
            if text in line:
                return line
        time.sleep(0.01)
    raise AssertionError(f"not logged: {text}\n{server.log}")


# --- memory


def test_a_large_upload_is_streamed_in_flat_memory(server: ServerProcess) -> None:
    whole = hashlib.sha256()
    for _ in range(200):
        whole.update(PIECE)

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield PIECE

    answer = httpx.put(f"{server.url}/api/v1/uploads/large", content=pieces(), timeout=60).json()
    assert (answer["size"], answer["sha256"]) == (200 * MIB, whole.hexdigest())
    assert answer["pieces"] > 200
    assert answer["grown"] < 8 * MIB


def test_a_slow_handler_slows_its_client(server: ServerProcess) -> None:
    with Conversation(server) as client:
        client.say(head("slow?pause=100", f"Content-Length: {200 * MIB}"))
        client.sock.settimeout(1.0)
        sent, began = 0, time.monotonic()
        with suppress(TimeoutError):
            while sent < 200 * MIB and time.monotonic() - began < 3:
                sent += client.sock.send(PIECE)
        assert sent < 40 * MIB  # what the sockets hold, and what was read


def test_a_handler_that_does_not_read_yet_holds_the_body_back(server: ServerProcess) -> None:
    with Conversation(server) as client:
        client.say(head("x/late", f"Content-Length: {50 * MIB}"), *[PIECE] * 50)
        status, answer, _ = client.answer()
        assert (status, answer["size"]) == (200, 50 * MIB)
        assert answer["grown"] < 8 * MIB


def test_the_frameworks_own_way_to_the_body_still_works(server: ServerProcess) -> None:
    with Conversation(server) as client:
        status, answer, _ = client.say(head("x/framework", "Content-Length: 99999"), b"b" * 99_999).answer()
        assert (status, answer["size"]) == (200, 99_999)
        assert client.say(head("x/framework", "Content-Length: 10"), b"half").answer()[1]["code"] == "body_timeout"


# --- lengths that lie, clients that go


def test_more_than_announced_is_no_part_of_the_body(server: ServerProcess) -> None:
    with Conversation(server) as client:
        status, answer, _ = client.say(head("more", "Content-Length: 5"), b"12345GARBAGE\r\n\r\n").answer()
        assert (status, answer["size"]) == (200, 5)
        assert client.answer()[0] == 400


def test_less_than_announced_is_408(server: ServerProcess) -> None:
    with Conversation(server) as client:
        status, answer, lines = client.say(head("less", "Content-Length: 100000"), b"b" * 99_999).answer()
        assert (status, answer["code"]) == (408, "body_timeout")
        assert b"x-request-id: " in lines
        assert b"connection: close" in lines.lower()
    assert "body_timeout after 99999 bytes" in logged(server, "Upload less ended")


@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
@pytest.mark.parametrize("framing", ["Content-Length: 300000", "Transfer-Encoding: chunked"])
def test_a_client_that_hangs_up_midway_has_not_sent_a_body(server: ServerProcess, way: str, framing: str) -> None:
    name = f"{way}-{framing[:7]}"
    body = b"b" * 100_000 if framing.startswith("Content") else b"186a0\r\n" + b"b" * 100_000 + b"\r\n"
    with Conversation(server) as client:
        client.say(head(name, framing), body)
        time.sleep(0.1)
        if way == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way == "half-close":
            client.sock.shutdown(socket.SHUT_WR)
            assert client.answer()[0] in (0, 400)
    assert "incomplete_body" in logged(server, f"Upload {name} ended")
    assert f"Upload {name} complete" not in server.log


# --- limits


def test_over_the_limit_as_announced_is_answered_from_the_head(server: ServerProcess) -> None:
    with Conversation(server) as client:
        status, answer, _ = client.say(head("announced", f"Content-Length: {LARGEST + 1}")).answer()
        assert (status, answer["code"], answer["limit"]) == (413, "body_too_large", LARGEST)
    assert "Upload announced" not in server.log


def test_over_the_limit_unannounced_is_413_when_it_is_reached(server: ServerProcess) -> None:
    chunk = b"100000\r\n" + PIECE + b"\r\n"
    with Conversation(server) as client:
        client.say(head("chunked", "Transfer-Encoding: chunked"), *[chunk] * 301)
        status, answer, _ = client.answer()
        assert (status, answer["code"], answer["limit"]) == (413, "body_too_large", LARGEST)
    assert "body_too_large" in logged(server, "Upload chunked ended")


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [
        ("PUT", "/api/v1/uploads/small", 100),
        ("PUT", "/api/v1/uploads/x", LARGEST),
        ("POST", "/api/v1/uploads/x", 100_000),
        ("POST", "/api/v1/uploads/small", 100_000),
        ("PUT", "/api/v1/uploads/x/nowhere", 100_000),
        ("PUT", "/api/entries/x", 100_000),
        ("POST", "/api/entries/batch", 16 * MIB),
    ],
)
def test_every_route_has_its_own_limit(server: ServerProcess, method: str, path: str, limit: int) -> None:
    with Conversation(server) as client:
        client.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {limit + 1}\r\n\r\n".encode())
        status, answer, _ = client.answer()
        assert (status, answer["limit"]) == (413, limit)
    if limit <= 100_000:
        with Conversation(server) as client:
            client.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {limit}\r\n\r\n".encode(), b"b" * limit)
            assert client.answer()[0] != 413


def test_an_ordinary_body_is_read_as_before(server: ServerProcess) -> None:
    with Conversation(server) as client:
        client.say(head("x", "Content-Length: 90000", method="POST"), b"b" * 90_000)
        assert client.answer()[:2] == (200, {"size": 90_000, "again": 90_000})
        client.say(head("x", method="POST"))
        assert client.answer()[:2] == (200, {"size": 0, "again": 0})


def test_a_refusal_comes_before_the_body_where_the_client_waits_for_it(server: ServerProcess) -> None:
    lines = (f"Content-Length: {200 * MIB}", "Expect: 100-continue")
    with Conversation(server) as client:
        assert client.say(head("x/refused", *lines)).answer()[0] == 409
    with Conversation(server) as client:
        assert client.say(head("x", *lines)).answer()[0] == 100
        client.say(*[PIECE] * 200)
        assert client.answer()[1]["size"] == 200 * MIB


async def test_a_hot_route_is_given_the_same_pieces() -> None:
    def reader(*messages: dict[str, Any]) -> _BodyReader:
        left = iter(messages)

        async def receive() -> dict[str, Any]:
            return next(left)

        return _BodyReader(receive)

    def piece(body: bytes, more: bool) -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": more}

    whole = reader(piece(b"ab", True), piece(b"", True), piece(b"c", True), piece(b"", False))
    assert [data async for data in whole.pieces()] == [b"ab", b"c"]
    read = reader(piece(b"ab", True), piece(b"c", False))
    assert await read() == b"abc"
    assert [data async for data in read.pieces()] == [b"abc"]
    assert [data async for data in reader(piece(b"", False)).pieces()] == []
    with pytest.raises(Problem, match="before the body did"):
        _ = [data async for data in reader(piece(b"ab", True), {"type": "http.disconnect"}).pieces()]


def test_the_api_description_names_the_413(server: ServerProcess) -> None:
    paths = httpx.get(f"{server.url}/api/v1/openapi.json").json()["paths"]
    assert {"400", "408", "413"} <= set(paths["/api/v1/uploads/{name}"]["put"]["responses"])
    assert "413" not in paths["/api/v1/uploads/{name}"]["post"]["responses"]
