"""Replies that leave in one write behave like all others: order, keep-alive, closing, the next request."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from clavitor_host.http import Reply
from clavitor_host.testing.process import ServerProcess
from clavitor_host.web.gateway import head_lines

BLOB = "QUJD"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("replies")) as running:
        yield running


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=20) as connection:
        yield connection


def get(server: ServerProcess, entry_id: str, *more: str, version: str = "1.1") -> bytes:
    token = server.authorization["Authorization"]
    lines = [f"GET /api/entries/{entry_id} HTTP/{version}", "Host: x", f"Authorization: {token}", *more, "", ""]
    return "\r\n".join(lines).encode()


def put(server: ServerProcess, entry_id: str, data: str = BLOB) -> bytes:
    body = f'{{"encrypted_data":"{data}"}}'
    head = get(server, entry_id, "Content-Type: application/json", f"Content-Length: {len(body)}")
    return head.replace(b"GET", b"PUT", 1) + body.encode()


def answers(wire: socket.socket, number: int) -> list[tuple[int, bytes]]:
    """Read `number` answers and nothing behind them."""
    data = b""
    found: list[tuple[int, bytes]] = []
    while len(found) < number:
        while b"\r\n\r\n" not in data:
            data += _more(wire)
        head, data = data.split(b"\r\n\r\n", 1)
        length = re.search(rb"content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        while len(data) < size:
            data += _more(wire)
        found.append((int(head.split(b" ", 2)[1]), data[:size]))
        data = data[size:]
    assert data == b""
    return found


def _more(wire: socket.socket) -> bytes:
    data = wire.recv(65536)
    assert data, "the connection was closed too early"
    return data


def test_pipelined_requests_are_answered_in_order(server: ServerProcess, wire: socket.socket) -> None:
    wire.sendall(
        put(server, "a", "QQ==") + put(server, "b", "Qg==") + get(server, "a") + get(server, "b") + get(server, "c")
    )
    codes, bodies = zip(*answers(wire, 5), strict=True)
    assert codes == (201, 201, 200, 200, 404)
    assert b'"encrypted_data":"QQ=="' in bodies[2]
    assert b'"encrypted_data":"Qg=="' in bodies[3]


def test_a_request_in_pieces_after_a_whole_reply(server: ServerProcess, wire: socket.socket) -> None:
    first, second = put(server, "a"), get(server, "a")
    wire.sendall(first + second[:20])
    assert answers(wire, 1)[0][0] in (200, 201)
    wire.sendall(second[20:])
    assert answers(wire, 1)[0][0] == 200


def test_ordinary_and_whole_replies_share_a_connection(server: ServerProcess, wire: socket.socket) -> None:
    for request, status in ((put(server, "a"), None), (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200)) * 3:
        wire.sendall(request)
        ((code, _),) = answers(wire, 1)
        assert code in ((200, 201) if status is None else (status,))


@pytest.mark.parametrize("request_is", ["1.1 with close", "1.0"])
def test_a_client_that_wants_the_connection_closed_gets_it_closed(
    server: ServerProcess, wire: socket.socket, request_is: str
) -> None:
    if request_is == "1.0":
        wire.sendall(get(server, "none", version="1.0"))
    else:
        wire.sendall(get(server, "none", "Connection: close"))
    data = b""
    while piece := wire.recv(65536):
        data += piece
    assert data.startswith(b"HTTP/1.1 404")
    assert b"connection: close" in data.lower()


def test_a_bare_line_feed_is_refused_also_after_a_whole_reply(server: ServerProcess, wire: socket.socket) -> None:
    wire.sendall(put(server, "a"))
    answers(wire, 1)
    wire.sendall(get(server, "a").replace(b"\r\nHost: x\r\n", b"\nHost: x\r\n"))
    assert answers(wire, 1)[0][0] == 400
    assert wire.recv(1) == b""


def test_a_304_and_a_204_have_no_length(server: ServerProcess, wire: socket.socket) -> None:
    wire.sendall(put(server, "x"))
    answers(wire, 1)
    wire.sendall(get(server, "x", "If-None-Match: *") + get(server, "x").replace(b"GET", b"DELETE", 1))
    assert answers(wire, 2) == [(304, b""), (204, b"")]


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x=1", "a\nb", "a\0b"])
def test_a_header_value_cannot_begin_another_header(value: str) -> None:
    with pytest.raises(ValueError, match="control"):
        head_lines(Reply(200, b"", headers={"ETag": value}), "r1")
