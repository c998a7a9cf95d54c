"""HTTP/2: what clients get, and what they cannot do."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from tests.serve.certificates import Pair
from tests.serve.running import Client, Program

Start = Callable[..., Program]
Context = Callable[..., ssl.SSLContext]


class H2Client:
    """An HTTP/2 client that shows its events."""

    def __init__(self, client: Client, *, window: int = 65535) -> None:
        self.client = client
        self.h2 = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()
        self.events: list[h2.events.Event] = []
        self.acknowledge = True

    def flush(self) -> None:
        self.client.send(self.h2.data_to_send())

    def request(
        self, path: str, *, method: str = "GET", end: bool = True, headers: dict[str, str] | None = None
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        self.h2.send_headers(stream, [*pseudo, *(headers or {}).items()], end_stream=end)
        self.flush()
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def read(self) -> None:
        data = self.client.sock.recv(65536)
        if not data:
            raise EOFError(self.events)
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and self.acknowledge:
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        self.flush()

    def wait(self, kind: type, stream: int | None = None) -> Any:
        while True:
            for event in self.events:
                if isinstance(event, kind) and (stream is None or getattr(event, "stream_id", None) == stream):
                    self.events.remove(event)
                    return event
            self.read()

    def answer(self, stream: int) -> tuple[int, bytes]:
        headers = dict(self.wait(h2.events.ResponseReceived, stream).headers)
        self.wait(h2.events.StreamEnded, stream)
        parts = [e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream]
        return int(headers[b":status"]), b"".join(parts)


@pytest.fixture(scope="module")
def server(pki: dict[str, Pair]) -> Iterator[Program]:
    tls = {"certificate": str(pki["server"].certificate), "key": str(pki["server"].key)}
    settings = {
        "tls": tls,
        "send_timeout": 0.5,
        "idle_timeout": 1.5,
        "header_timeout": 0.7,
        "h2_max_concurrent_streams": 10,
        "h2_max_resets": 20,
        "body_timeout": 0.5,
    }
    with Program(settings=settings, limit=1_000_000) as program:
        yield program.started()


@pytest.fixture
def client(server: Program, tls_client: Context) -> Iterator[H2Client]:
    with server.connect(tls=tls_client(alpn=("h2",))) as client:
        yield H2Client(client)


def test_httpx_speaks_http2(server: Program, tls_client: Context) -> None:
    host, port = server.address
    with httpx.Client(http2=True, verify=tls_client(alpn=("h2",)), base_url=f"https://{host}:{port}") as client:
        answer = client.get("/scope")
        assert answer.http_version == "HTTP/2"
        assert answer.json()["http_version"] == "2"
        assert "server" not in answer.headers
        assert client.put("/echo", content=b"b" * 900_000).text == "900000"
        assert len(client.get("/large").content) == 5_000_000
        assert client.get("/crash").json()["code"] == "internal_error"


def test_a_handler_that_does_not_read_holds_up_no_other_request(client: H2Client, server: Program) -> None:
    stuck = client.request("/ignore-body", method="PUT", end=False)
    server.event("waiting", path="/ignore-body")
    for _ in range(30):  # Hypercorn's queue holds 10
        client.data(stuck, b"b" * 1000)
    assert client.answer(client.request("/echo", method="PUT", end=True))[0] == 200
    assert client.answer(client.request("/release"))[0] == 200
    assert client.answer(stuck) == (200, b"released")


def test_the_window_opens_only_as_the_handler_reads(client: H2Client, server: Program) -> None:
    stuck = client.request("/ignore-body", method="PUT", end=False)
    server.event("waiting", path="/ignore-body")
    while client.h2.local_flow_control_window(stuck) > 0:
        client.data(stuck, b"b" * min(16_000, client.h2.local_flow_control_window(stuck)))
    client.answer(client.request("/hello"))
    assert client.h2.local_flow_control_window(stuck) == 0
    client.answer(client.request("/release"))
    client.answer(stuck)


def test_data_after_an_early_answer_does_not_end_the_connection(client: H2Client) -> None:
    early = client.request("/early", method="PUT", end=False)
    assert client.answer(early) == (401, b"no")
    client.data(early, b"b" * 1000)
    assert client.wait(h2.events.StreamReset, early).error_code == h2.errors.ErrorCodes.NO_ERROR
    assert client.answer(client.request("/hello"))[0] == 200


def test_a_reset_cancels_that_handler_only(client: H2Client, server: Program) -> None:
    slow = client.request("/slow")
    waiting = client.request("/wait")
    server.event("waiting", path="/wait")
    client.h2.reset_stream(waiting)
    client.flush()
    server.event("cancelled", path="/wait", within=2)
    assert client.answer(slow) == (200, b"slow but sure")


def test_a_lost_connection_cancels_all_its_handlers(client: H2Client, server: Program) -> None:
    for _ in range(3):
        client.request("/wait")
        server.event("waiting", path="/wait")
    client.client.close()
    for _ in range(3):
        server.event("cancelled", path="/wait", within=2)


def test_a_handler_failing_in_its_answer_resets_its_stream(client: H2Client) -> None:
    late = client.request("/crash-late")
    assert client.wait(h2.events.StreamReset, late).error_code == h2.errors.ErrorCodes.INTERNAL_ERROR
    assert client.answer(client.request("/hello"))[0] == 200


def test_a_client_that_gives_no_window_has_its_stream_reset(server: Program, tls_client: Context) -> None:
    with server.connect(tls=tls_client(alpn=("h2",))) as raw:
        client = H2Client(raw, window=1000)
        client.acknowledge = False
        large = client.request("/large")
        assert client.wait(h2.events.StreamReset, large).error_code == h2.errors.ErrorCodes.CANCEL
        server.event("ended", path="/large", within=2)
        client.acknowledge = True


def test_concurrent_streams_are_bounded(client: H2Client) -> None:
    client.wait(h2.events.RemoteSettingsChanged)
    assert client.h2.remote_settings.max_concurrent_streams == 10
    client.h2.remote_settings._settings[SettingCodes.MAX_CONCURRENT_STREAMS].append(1000)
    client.h2.remote_settings.acknowledge()
    with pytest.raises(EOFError):
        for _ in range(12):
            client.request("/wait")
        while True:
            client.read()


def test_oversized_headers_end_the_connection(client: H2Client) -> None:
    with pytest.raises(EOFError):
        client.request("/hello", headers={f"x-{n}": "a" * 1000 for n in range(30)})
        while True:
            client.read()


def test_rapid_resets_end_the_connection(client: H2Client) -> None:
    with pytest.raises((EOFError, ConnectionError, ssl.SSLError, h2.exceptions.ProtocolError)):
        for _ in range(200):
            stream = client.request("/hello")
            client.h2.reset_stream(stream)
            client.flush()
        while True:
            client.read()
    with pytest.raises((EOFError, ConnectionError, ssl.SSLError)):
        while True:
            client.read()
    codes = [event.error_code for event in client.events if isinstance(event, h2.events.ConnectionTerminated)]
    assert codes == [h2.errors.ErrorCodes.ENHANCE_YOUR_CALM]


@pytest.mark.parametrize("path", ["/h\xe9llo", ""])
def test_a_path_that_is_no_path_harms_only_its_stream(client: H2Client, path: str) -> None:
    bad = client.h2.get_next_available_stream_id()
    headers = [(b":method", b"GET"), (b":path", path.encode()), (b":scheme", b"https"), (b":authority", b"localhost")]
    client.h2.send_headers(bad, headers, end_stream=True)
    client.flush()
    if path:
        client.wait(h2.events.StreamReset, bad)
        assert client.answer(client.request("/hello"))[0] == 200
    else:  # h2 itself calls this a protocol error of the connection
        with pytest.raises(EOFError):
            client.wait(h2.events.StreamReset, bad)


def test_connect_is_refused(client: H2Client) -> None:
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, [(":method", "CONNECT"), (":authority", "localhost")], end_stream=False)
    client.flush()
    client.wait(h2.events.StreamReset, stream)


def test_body_limits_hold(client: H2Client) -> None:
    big = client.request("/echo", method="PUT", end=False, headers={"content-length": "2000000"})
    assert client.answer(big)[0] == 413
    stalled = client.request("/echo", method="PUT", end=False)
    assert client.answer(stalled)[0] == 408


def test_an_idle_connection_is_closed(client: H2Client) -> None:
    client.answer(client.request("/hello"))
    began = time.monotonic()
    with pytest.raises((EOFError, h2.exceptions.ProtocolError)):  # the latter: GOAWAY has arrived
        while True:
            client.h2.ping(b"12345678")  # does not count as a request
            client.flush()
            client.read()
    assert time.monotonic() - began < 3.0


def test_a_connection_whose_only_request_was_reset_is_idle(client: H2Client, server: Program) -> None:
    client.h2.reset_stream(client.request("/wait"))
    client.flush()
    began = time.monotonic()
    with pytest.raises(EOFError):
        while True:
            client.read()
    assert time.monotonic() - began < 3.0


def test_a_connection_without_a_request_is_closed(client: H2Client) -> None:
    began = time.monotonic()
    with pytest.raises(EOFError):
        while True:
            client.read()
    assert time.monotonic() - began < 2.0


def test_shutdown_finishes_the_open_requests_then_says_goaway(
    start: Start, pki: dict[str, Pair], tls_client: Context
) -> None:
    tls = {"certificate": str(pki["server"].certificate), "key": str(pki["server"].key)}
    program = start(settings={"tls": tls})
    with program.connect(tls=tls_client(alpn=("h2",))) as raw:
        client = H2Client(raw)
        slow = client.request("/slow")
        program.event("waiting", path="/slow")
        program.process.terminate()
        program.event("on_shutdown")
        late = client.request("/hello")
        assert client.wait(h2.events.StreamReset, late).error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        assert client.answer(slow) == (200, b"slow but sure")
        client.wait(h2.events.ConnectionTerminated)
    assert program.wait() < 1.0


def test_h2c_with_prior_knowledge_only_when_asked(start: Start) -> None:
    program = start(settings={"h2c": True})
    with program.connect() as raw:
        client = H2Client(raw)
        assert client.answer(client.request("/hello")) == (200, b"hello world\n")
        assert client.answer(client.request("/large"))[0] == 200
    with program.connect() as plain:
        assert plain.get().status == 200
