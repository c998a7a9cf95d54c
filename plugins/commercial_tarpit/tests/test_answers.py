"""Who is held and who is not, and what they see (commercial.md section 2)."""

from __future__ import annotations

import json
import socket
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.testing.process import ServerProcess
from tests.serve.running import Client

PROGRAM = (sys.executable, str(Path(__file__).with_name("program.py")))
Call = Callable[[], Any]


class Caller(Client):
    """A caller of a server, in plain text unless `tls` is given."""

    def __init__(self, server: ServerProcess, **options: Any) -> None:
        super().__init__(server.address, **options)

    def head(self) -> tuple[int, dict[str, str]]:
        """Read status and headers, and no more."""
        answer = self.response(head=True)
        return answer.status, answer.headers

    def is_held(self) -> bool:
        """Read the head of an answer and say which it is; the plain one is read to its end."""
        _, headers = self.head()
        size = int(headers["content-length"])
        if size == 30:
            return True
        while len(self.rest) < size:
            self._more()
        self.rest = b""
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for the tests that leave it as it was."""
    with ServerProcess(tmp_path_factory.mktemp("shared"), program=PROGRAM) as running:
        yield running


@pytest.fixture
def call(server: ServerProcess) -> Iterator[Callable[[], Caller]]:
    """Connect callers to the shared server; they hang up in the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Caller(server))


def bytes_with_times(client: Any, count: int) -> list[tuple[float, bytes]]:
    """Read `count` pieces, each with the seconds since the head."""
    began = time.monotonic()
    found = []
    for _ in range(count):
        data = client.sock.recv(100)
        found.append((time.monotonic() - began, data))
    return found


def test_the_status_comes_at_once_then_one_byte_a_second(call: Call) -> None:
    """Never early, in any try; on time in the best of three, as this machine may be busy with something else."""
    on_time = False
    for _ in range(3):
        client = call()
        began = time.monotonic()
        client.request("/wp-login.php")
        status, headers = client.head()
        prompt = time.monotonic() - began < 0.5
        assert (status, headers["content-type"]) == (404, "application/problem+json")
        found = bytes_with_times(client, 4)
        assert b'{"code"'.startswith(b"".join(data for _, data in found)[:7])
        assert all(number - 0.05 < at for number, (at, _) in enumerate(found, 1))
        single = [data for _, data in found] == [b"{", b'"', b"c", b"o"]
        on_time = prompt and single and all(at < number + 0.4 for number, (at, _) in enumerate(found, 1))
        if on_time:
            break
    assert on_time


def test_it_takes_thirty_seconds_to_the_last_byte(call: Call) -> None:
    clients = [call() for _ in range(3)]
    began = time.monotonic()
    for client, path in zip(clients, ("/a", "/b", "/healthz"), strict=True):
        client.request(path, method="DELETE")
        client.sock.settimeout(60)
    answers = [client.response() for client in clients]
    assert 29.9 < time.monotonic() - began < 31.5
    assert [(answer.status, answer.json()) for answer in answers] == [
        (404, {"code": "not_found"}),
        (404, {"code": "not_found"}),
        (405, {"code": "method_not_allowed"}),
    ]
    assert [client.until_closed() for client in clients] == [b""] * 3
    assert time.monotonic() - began < 32


def test_headers_are_those_of_the_plain_answer(server: ServerProcess, call: Call) -> None:
    for method, path in (("GET", "/nowhere"), ("PUT", "/api/v1/me")):
        plain = call().request(path, f"authorization: Bearer {server.token}", method=method).response()
        status, held = call().request(path, method=method).head()
        assert status == plain.status
        assert held.pop("connection") == "close"
        assert held.pop("content-length") == "30"
        plain.headers.pop("content-length")
        for headers in (held, plain.headers):
            headers.pop("date")
            headers.pop("x-request-id")
        assert held == plain.headers


def test_a_405_is_held_and_says_what_is_allowed(call: Call) -> None:
    client = call()
    client.request("/healthz", method="DELETE")
    status, headers = client.head()
    assert (status, headers["allow"], headers["content-length"]) == (405, "GET, HEAD", "30")
    assert client.sock.recv(100) == b"{"


def test_a_missing_entry_is_an_ordinary_404(server: ServerProcess, call: Call) -> None:
    client = call()
    answer = client.request("/api/entries/none", f"authorization: Bearer {server.token}").response()
    assert (answer.status, answer.code) == (404, "entry_not_found")
    assert len(answer.body) > 30
    assert call().request("/api/entries/none").response().status == 401  # a route: never held


def test_who_presents_a_valid_token_gets_the_plain_answer(server: ServerProcess, call: Call) -> None:
    client = call()
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/healthz", 405)):
        answer = client.request(path, f"authorization: Bearer {server.token}", method=method).response()
        assert (answer.status, answer.json()["status"]) == (status, status)
        assert "connection" not in answer.headers


def test_a_token_that_is_not_valid_does_not_help(call: Call) -> None:
    assert call().request("/nowhere", "authorization: Bearer clv_" + "a" * 40).is_held()


def test_head_is_answered_at_once(call: Call) -> None:
    client = call()
    answer = client.get("/nowhere", method="HEAD")
    assert (answer.status, answer.body) == (404, b"")
    assert "connection" not in answer.headers
    assert client.get("/healthz").status == 200


def test_a_request_with_a_body_is_held_too(call: Call) -> None:
    assert call().request("/xmlrpc.php", method="POST", body=b"<x/>" * 1000).is_held()


def test_a_body_that_does_not_come_gets_no_seat(call: Call) -> None:
    client = call().send(b"POST /xmlrpc.php HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
    began = time.monotonic()
    assert not client.is_held()
    assert time.monotonic() - began < 7


def test_a_request_behind_it_is_never_mistaken(call: Call) -> None:
    client = call().send(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.is_held()
    assert [data for _, data in bytes_with_times(client, 2)] == [b"{", b'"']


def test_a_client_that_keeps_sending_wakes_nobody(server: ServerProcess, call: Call) -> None:
    client = call()
    assert client.request("/nowhere").is_held()
    client.sock.settimeout(0.3)
    sent = 0
    try:
        while sent < 50_000_000:
            sent += client.sock.send(b"x" * 65536)
    except TimeoutError:
        pass  # its window is full
    assert sent < 10_000_000
    before = cpu_seconds(server.pid)
    client.sock.settimeout(15)
    assert [data for _, data in bytes_with_times(client, 2)][-1] == b'"'
    assert cpu_seconds(server.pid) - before < 0.3


def test_a_client_that_never_reads_costs_no_more_than_another(server: ServerProcess, call: Call) -> None:
    clients = [call().request("/nowhere") for _ in range(20)]
    for client in clients:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    assert call().get("/healthz").status == 200


@pytest.mark.parametrize("manner", ["close", "reset", "half-close"])
def test_a_client_that_hangs_up_frees_its_seat_at_once(server: ServerProcess, call: Call, manner: str) -> None:
    before = held(server)
    clients = [call() for _ in range(10)]
    for client in clients:
        assert client.request("/nowhere").is_held()
    assert held(server) == before + 10
    for client in clients:
        if manner == "half-close":
            client.sock.shutdown(socket.SHUT_WR)
            assert client.until_closed() == b""
        elif manner == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    until = time.monotonic() + 0.8  # before the next byte could show that nobody reads
    while held(server) > before and time.monotonic() < until:
        pass
    assert held(server) == before


def test_an_unfinished_answer_counts_the_seconds_it_took(server: ServerProcess, call: Call) -> None:
    client = call()
    served, wasted = (number(server, f"clavitor_tarpit_{name}_total") for name in ("served", "wasted_seconds"))
    client.request("/nowhere").is_held()
    bytes_with_times(client, 1)
    client.close()
    until = time.monotonic() + 5
    while number(server, "clavitor_tarpit_wasted_seconds_total") < wasted + 0.9 and time.monotonic() < until:
        pass
    assert wasted + 0.9 < number(server, "clavitor_tarpit_wasted_seconds_total") < wasted + 60
    assert number(server, "clavitor_tarpit_served_total") == served + 1


def held(server: ServerProcess) -> float:
    return number(server, "clavitor_tarpit_held")


def number(server: ServerProcess, name: str) -> float:
    with Client(server.address) as client:
        text = client.get("/api/v1/prometheus").body.decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_the_bodies_have_a_byte_for_every_second() -> None:
    from clavitor_commercial_tarpit.pit import BODIES, SECONDS

    assert {len(body) for body in BODIES.values()} == {SECONDS}
    assert [json.loads(body) for body in BODIES.values()] == [{"code": "not_found"}, {"code": "method_not_allowed"}]


def test_the_version_is_that_of_the_package() -> None:
    from clavitor_commercial_tarpit.plugin import plugin

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert plugin.version == project["version"]
    assert plugin.name == "commercial_tarpit"
