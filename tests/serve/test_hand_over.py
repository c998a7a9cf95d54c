"""A connection is given away after its head: no byte is lost, nothing of it is left, and the server goes on."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serve.certificates import Pair
from tests.serve.running import Client, Program

Start = Callable[..., Program]


def given(program: Program, **fields: Any) -> bool:
    done = program.event("given", **fields)["done"]
    assert isinstance(done, bool)
    return done


def closed_by_the_server(client: Client) -> bool:
    client.sock.settimeout(0.1)
    try:
        return client.sock.recv(1) == b""
    except TimeoutError:
        return False
    finally:
        client.sock.settimeout(15)


def head_and_body_so_far(client: Client) -> bytes:
    while not client.rest.endswith(b"so far, "):
        client.rest += client.sock.recv(65536)
    return client.rest


def test_head_and_body_so_far_then_all_the_receiver_sends_and_no_more(start: Start) -> None:
    program = start()
    with program.connect() as client, program.connect() as other:
        client.request("/give")
        assert given(program)
        kept = next(event for event in program.events if event["event"] == "kept")
        assert kept["blocking"] is False
        assert kept["inheritable"] is False
        assert b"content-length: 13\r\nconnection: close\r\n" in head_and_body_so_far(client)
        assert not closed_by_the_server(client)  # although the server has closed its own descriptor
        assert other.get("/end").body == b"1"
        assert client.response().body == b"so far, given"
        assert client.until_closed() == b""
    program.stop()
    assert program.errors == ""


def test_what_the_client_sends_later_waits_for_the_receiver(start: Start) -> None:
    program = start()
    with program.connect() as client, program.connect() as other:
        client.request("/give")
        assert given(program)
        client.send(b"later")
        client.sock.shutdown(socket.SHUT_WR)
        other.get("/end")
        assert client.until_closed().endswith(b"so far, LATER")


@pytest.mark.parametrize("request_line", ["GET /give HTTP/1.0", "GET /give HTTP/1.1\r\nhost: x\r\nconnection: close"])
def test_a_client_that_wants_it_closed_is_given_away_too(start: Start, request_line: str) -> None:
    program = start()
    with program.connect() as client, program.connect() as other:
        client.send(f"{request_line}\r\n\r\n".encode())
        assert given(program)
        other.get("/end")
        assert client.until_closed().endswith(b"so far, given")


def test_a_request_with_its_whole_body_is_given_away(start: Start) -> None:
    program = start(limit=1000, settings={"proxy_trusted": ["127.0.0.1"]})  # both wrap the application
    with program.connect() as client, program.connect() as other:
        client.request("/give", "x-forwarded-for: 198.51.100.7", method="PUT", body=b"b" * 100)
        assert given(program, client=["198.51.100.7", 0])
        other.get("/end")
        assert client.response().body == b"so far, given"


def test_a_unix_socket_is_given_away(start: Start, tmp_path: Path) -> None:
    program = start(bind=[f"unix:{tmp_path / 's'}"])
    with program.connect() as client, program.connect() as other:
        client.request("/give")
        assert given(program, client=None)
        other.get("/end")
        assert client.until_closed().endswith(b"so far, given")


def test_the_request_before_is_answered_in_full(start: Start) -> None:
    program = start()
    with program.connect() as client, program.connect() as other:
        assert client.get().status == 200
        client.request("/give")
        assert given(program)
        other.get("/end")
        assert client.response().body == b"so far, given"


# --- it does not count any more


def test_it_does_not_count_as_a_connection_and_holds_no_object(start: Start) -> None:
    program = start(settings={"max_connections": 2})
    with program.connect() as watcher:
        before = watcher.get("/objects").json()
        for _ in range(30):
            client = program.connect()
            assert client.request("/give").sock.recv(12) == b"HTTP/1.1 200"
            assert given(program)
        assert json.loads(watcher.get("/objects").body) == before
        assert watcher.get("/end").body == b"30"


def test_the_end_of_the_server_does_not_wait_for_it(start: Start) -> None:
    program = start(settings={"graceful": 10.0})
    with program.connect() as client:
        client.request("/give")
        assert given(program)
        assert program.stop() < 1.0
    assert program.process.returncode == 0
    assert program.errors == ""


# --- where it cannot be


def test_a_request_waiting_behind_it_is_a_reason_to_stay(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.send(b"GET /give HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not given(program, offered=True)
        assert client.response().body == b"so far, flown"


def test_an_answer_that_is_still_being_sent_comes_first_and_whole(start: Start) -> None:
    program = start()
    with program.connect() as client, program.connect() as other:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.request("/large")
        client.request("/give")
        assert len(client.response().body) == 5_000_000
        expected = b"so far, given" if given(program) else b"so far, flown"  # as the client happens to read
        other.get("/end")
        assert client.response().body == expected


def test_a_body_still_to_come_is_a_reason_to_stay(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.send(b"PUT /give HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na")
        assert not given(program, offered=True)
        assert client.response().body == b"so far, flown"


def test_a_body_without_a_length_is_a_reason_to_stay(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.request("/give-unsized")
        assert not given(program, offered=True)
        assert client.until_closed().endswith(b"8\r\nso far, \r\n5\r\nflown\r\n0\r\n\r\n")


def test_a_head_request_is_answered_without_a_body(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.request("/give", method="HEAD")
        assert not given(program)
        assert client.response(head=True).headers["content-length"] == "13"
        assert client.until_closed() == b""


def test_no_free_descriptor_is_a_reason_to_stay(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.request("/give-without-descriptors")
        assert not given(program, offered=True)
        assert client.response().body == b"so far, flown"


def test_tls_offers_none(start: Start, pki: dict[str, Pair], tls_client: Callable[..., ssl.SSLContext]) -> None:
    program = start(settings={"tls": {"certificate": str(pki["server"].certificate), "key": str(pki["server"].key)}})
    with program.connect(tls=tls_client()) as client:
        client.request("/give")
        assert not given(program, offered=False)
        assert client.response().body == b"so far, flown"


def test_a_receiver_that_fails_costs_the_connection_and_nothing_else(start: Start) -> None:
    program = start()
    with program.connect() as client, program.connect() as other:
        client.request("/give-badly")
        assert given(program)
        assert client.until_closed().endswith(b"so far, ")
        assert other.get().status == 200
    program.stop()
    assert "not this one" in program.errors
