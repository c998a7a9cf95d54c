"""Start and end of one serving process."""

from __future__ import annotations

import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.serve.certificates import Pair
from tests.serve.running import Client, Program

Start = Callable[..., Program]
HALF_HEAD = b"GET /hello HTTP/1.1\r\nhost:"
HALF_BODY = b"PUT /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf"


def test_sigterm_with_100_connections_of_every_kind_ends_within_a_second(
    start: Start, pki: dict[str, Pair], tls_client: Callable[..., ssl.SSLContext]
) -> None:
    tls = {"certificate": str(pki["server"].certificate), "key": str(pki["server"].key)}
    program = start(settings={"tls": tls})
    context, h2_context = tls_client(), tls_client(alpn=("h2",))
    clients: list[Client] = []
    for kind in range(100):
        client = program.connect(tls=h2_context if kind % 7 == 6 else None if kind % 7 == 5 else context)
        clients.append(client)
        match kind % 7:
            case 0:
                client.get()  # idle
            case 1:
                client.send(HALF_HEAD)
            case 2:
                client.send(HALF_BODY)
            case 3:
                client.request("/stream")
                program.event("waiting", path="/stream")
            case 4:
                client.request("/wait")
                program.event("waiting", path="/wait")
            case 5:
                pass  # TCP only: its handshake never begins
            case 6:
                h2 = H2Connection(H2Configuration(client_side=True))
                h2.initiate_connection()
                headers = [(":method", "GET"), (":path", "/wait"), (":scheme", "https"), (":authority", "localhost")]
                h2.send_headers(1, headers, end_stream=True)
                client.send(h2.data_to_send())
                program.event("waiting", path="/wait")
    assert program.stop() < 1.0
    assert program.process.returncode == 0
    assert program.errors == ""
    names = program.names()
    assert names.index("on_shutdown") < names.index("cancelled") < names.index("shutdown")
    started = [event for event in program.events if event["event"] == "waiting"]
    ended = [event for event in program.events if event["event"] == "ended" and event["path"] in ("/wait", "/stream")]
    assert len(ended) == len(started)


def test_100_idle_connections_end_at_once(start: Start) -> None:
    program = start(settings={"graceful": 10.0})
    clients = [program.connect() for _ in range(100)]
    for client in clients:
        client.get()
    assert program.stop() < 0.6
    assert all(client.until_closed() == b"" for client in clients)


def test_idle_tls_connections_end_at_once(
    start: Start, pki: dict[str, Pair], tls_client: Callable[..., ssl.SSLContext]
) -> None:
    tls = {"certificate": str(pki["server"].certificate), "key": str(pki["server"].key)}
    program = start(settings={"graceful": 10.0, "tls": tls})
    clients = [program.connect(tls=tls_client()) for _ in range(20)]
    for client in clients:
        client.get()
    assert program.stop() < 0.6  # although no client answers the close


def test_requests_in_flight_finish_and_say_close(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.request("/slow")
        program.event("waiting", path="/slow")
        program.process.send_signal(signal.SIGTERM)
        answer = client.response()
        assert answer.body == b"slow but sure"
        assert answer.headers["connection"] == "close"
        assert client.until_closed() == b""
    program.wait()
    assert program.process.returncode == 0


def test_idle_connections_do_not_wait_for_the_busy_ones(start: Start) -> None:
    program = start(settings={"graceful": 10.0})
    with program.connect() as idle, program.connect() as half, program.connect() as busy:
        idle.get()
        half.send(HALF_HEAD)
        busy.request("/wait")
        program.event("waiting", path="/wait")
        began = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        assert idle.until_closed() == b""
        assert half.until_closed() == b""
        assert time.monotonic() - began < 3.0
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(0.3)
        assert program.stop() < 1.0  # the second signal
        assert "cancelled" in program.names()


def test_no_new_connection_is_taken_while_draining(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.request("/slow")
        program.event("waiting", path="/slow")
        program.process.send_signal(signal.SIGTERM)
        program.event("on_shutdown")
        with pytest.raises((ConnectionError, EOFError)), program.connect() as late:
            late.get()
        assert client.response().status == 200


def test_a_handler_that_ignores_its_cancellation_does_not_hold_the_end(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.request("/stubborn")
        program.event("waiting", path="/stubborn")
        assert program.stop() < 1.2
    assert "ignored" in program.names()
    assert program.names()[-1] in ("shutdown", "ignored", "ended")


def test_a_second_signal_does_not_wait_for_requests(start: Start) -> None:
    program = start(settings={"graceful": 10.0})
    with program.connect() as client:
        client.request("/wait")
        program.event("waiting", path="/wait")
        program.process.send_signal(signal.SIGINT)
        program.event("on_shutdown")
        program.process.send_signal(signal.SIGTERM)  # at once: a supervisor passes on what the group got
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(0.5)
        assert program.stop(signal.SIGINT) < 1.0
    assert program.process.returncode == 0


def test_a_slow_reader_does_not_hold_the_end(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.request("/flood")
        program.event("waiting", path="/flood")
        assert program.stop() < 1.0


@pytest.mark.parametrize("fail", ["raise", "quart"])
def test_a_start_failure_is_the_exception_that_the_application_raised(start: Start, fail: str) -> None:
    program = start(ready=False, fail=fail)
    program.wait()
    assert program.process.returncode == 2
    assert program.errors == "error: ConfigError: limits.body: expected a number.\n"


def test_a_start_failure_told_only_as_a_message_is_a_start_error(start: Start) -> None:
    program = start(ready=False, fail="message")
    program.wait()
    assert program.errors == "error: StartError: no database\n"


def test_a_start_that_takes_too_long_is_a_start_error(start: Start) -> None:
    program = start(ready=False, fail="hang", settings={"startup_timeout": 0.2})
    program.wait()
    assert program.errors == "error: StartError: The application did not start within 0.2 seconds.\n"


def test_a_signal_during_the_start_ends_it(start: Start) -> None:
    program = start(ready=False, fail="hang")
    program.event("startup")
    assert program.stop() < 1.0
    assert program.process.returncode == 0
    assert "on_shutdown" in program.names()


def test_half_of_everything_leaves_no_descriptor_behind(start: Start) -> None:
    program = start()
    with program.connect() as client:
        client.get()
        folder = Path(f"/proc/{program.process.pid}/fd")
        before = len(list(folder.iterdir()))
        for number in range(150):
            with program.connect() as other:
                other.send((HALF_HEAD, HALF_BODY, b"")[number % 3])
        until = time.monotonic() + 5
        while len(list(folder.iterdir())) > before and time.monotonic() < until:
            client.get()
        assert len(list(folder.iterdir())) <= before
