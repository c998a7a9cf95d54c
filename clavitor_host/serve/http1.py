"""HTTP/1.1 over h11: Hypercorn's protocol with its traps closed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol

from clavitor_host.errors import Problem
from clavitor_host.serve.hand_over import HandOver
from clavitor_host.serve.handlers import Handlers, Inbox
from clavitor_host.serve.http_config import HttpConfig
from clavitor_host.serve.settings import ServeSettings
from clavitor_host.serve.stream import Stream, send_problem

JOIN_BELOW = 64 * 1024
"""Bodies up to this size are copied behind their head, to leave in one write (on TLS: in one record)."""


class _StrictLines(ReceiveBuffer):
    """What h11 has read, with heads whose every line ends in CRLF.

    h11 also takes a bare LF (RFC 9112 section 2.2 allows it). A proxy that does not would see other headers than we
    do, which is what request smuggling is made of.
    """

    def __init__(self) -> None:
        super().__init__()
        self._in_head = False

    def maybe_extract_lines(self) -> list[bytearray] | None:
        self._in_head = True
        try:
            return super().maybe_extract_lines()
        finally:
            self._in_head = False

    def _extract(self, count: int) -> bytearray:
        out = super()._extract(count)
        if self._in_head and out.count(b"\n") != out.count(b"\r\n"):
            raise h11.LocalProtocolError("a line of the head ends in a bare LF")
        return out


class Http1Protocol(H11Protocol):
    """One HTTP/1 connection.

    Differs from Hypercorn's: the head leaves with the first piece of the body; `100 Continue` is sent when the
    handler asks for the body, not before it could refuse; a body left over by an early answer is drained within
    bounds; oversized heads and other errors are answered with problem+json; no upgrade to WebSocket or h2c.
    """

    config: HttpConfig
    connection: h11.Connection
    stream: Stream | None
    task_group: Handlers  # type: ignore[assignment]

    def __init__(self, settings: ServeSettings, *args: Any) -> None:
        super().__init__(*args)
        self.connection = self._fresh()
        self._settings = settings
        self._head = b""
        self._fed = 0
        self._drained = 0
        self.draining = False
        """True while the rest of a request is thrown away that was answered before its end."""
        self._refused = False

    @property
    def complete(self) -> bool:
        """True unless a request has begun whose end has not arrived."""
        return self.connection.their_state is not h11.SEND_BODY

    @property
    def linger(self) -> bool:
        """True when the client may still be sending, so that closing at once could destroy the answer (RST)."""
        return self._refused or self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    async def reply(self, stream: Stream, status: int, head: bytes, body: bytes) -> bool:
        """Answer a request in one write; False when that cannot be (nothing has been sent then).

        `head`: header lines as they go out, each with its CRLF, Content-Length among them, all valid. The response
        does not pass h11: when request and answer are complete, nothing of its state matters for the next request,
        so that begins with a new `h11.Connection` (a microsecond) on the bytes that the old one has left.
        """
        old = self.connection
        if (
            old.their_state is not h11.DONE  # the request is not complete, or its client wants the connection closed
            or old.our_state is not h11.SEND_RESPONSE
            or self.context.terminated.is_set()
            or self.keep_alive_requests >= self.config.keep_alive_max_requests
        ):
            return False
        line = _STATUS_LINES[status]
        data = b"".join((line, head, self.config.date_line(), b"\r\n"))
        if len(body) <= JOIN_BELOW:
            data += body
            body = b""
        await self.send(RawData(data))
        if body:
            await self.send(RawData(body))
        left, _ = old.trailing_data  # now, not before the write: that may have waited, and bytes may have come in
        self.connection = self._fresh()
        if left:
            self.connection.receive_data(left)
        self._fed = len(left)
        self.stream = None
        stream.answered()
        await self.can_read.set()
        await self.send(Updated(idle=True))
        return True

    async def hand_over(self, body: bytes, receiver: Callable[[socket.socket], None] | None) -> bool:
        """Send the head and `body`; return whether `receiver` has the connection's socket now.

        It gets it when the request is complete and nothing has been read of what comes behind it. What the client sends
        later waits in the socket.
        """
        connection = self.connection
        data, self._head = self._head, b""
        if body:
            data += connection.send(h11.Data(data=body)) or b""
        if (
            receiver is None
            or connection.their_state not in (h11.DONE, h11.MUST_CLOSE)
            or connection.trailing_data[0]
            or self.context.terminated.is_set()
        ):
            await self.send(RawData(data))
            return False
        event = HandOver(data, receiver)
        await self.send(event)
        if event.done:
            self.stream = None
        return event.done

    def _fresh(self) -> h11.Connection:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)
        connection._receive_buffer = _StrictLines()
        return connection

    async def handle(self, event: Event) -> None:
        """Take bytes, or the end of the connection."""
        if isinstance(event, RawData):
            self._fed += len(event.data)
            self.connection.receive_data(event.data)
            await self._handle_events()
        elif isinstance(event, Closed):
            await self._close_stream()

    async def _handle_events(self) -> None:
        connection = self.connection
        while True:
            try:
                event: Any = connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._close_stream()
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._refuse(error.error_status_hint, str(error))
                await self.send(Closed())
                return
            if event is h11.NEED_DATA:
                return
            kind = type(event)
            if kind is h11.Request:
                await self.send(Updated(idle=False))
                if not await self._start(event):
                    return
            elif kind is h11.Data:
                await self._body(event.data)
            elif kind is h11.EndOfMessage:
                await self._end_of_body()
            elif event is h11.PAUSED:
                await self.can_read.clear()
                await self.can_read.wait()
                connection = self.connection
                if connection.our_state is not h11.IDLE:
                    return
            else:
                return

    async def _start(self, request: h11.Request) -> bool:
        headers = list(request.headers)
        if self._too_large(request, headers):
            await self._refuse(431, "request head too large")
        elif request.http_version not in (b"1.1", b"1.0"):
            if self._settings.h2c and request.method == b"PRI" and request.target == b"*":
                raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])
            await self._refuse(505, "HTTP version")
        elif request.method == b"CONNECT":
            await self._refuse(501, "CONNECT")
        else:
            self.keep_alive_requests += 1
            stream = Stream(
                self.app,
                self.config,
                self.context,
                self.task_group,  # type: ignore[arg-type]
                self.ssl,
                self.client,
                self.server,
                self.stream_send,
                STREAM_ID,
            )
            stream.inbox = Inbox(self._settings.receive_buffer)
            stream.protocol = self
            if self.connection.they_are_waiting_for_100_continue:
                stream.inbox.before_wait = self._send_continue
            self.stream = stream
            await stream.handle(
                Request(
                    STREAM_ID,
                    headers,
                    request.http_version.decode("ascii"),
                    request.method.decode("ascii"),
                    request.target,
                    self.connection_state,
                )
            )
            return True
        await self.send(Closed())
        return False

    def _too_large(self, request: h11.Request, headers: list[tuple[bytes, bytes]]) -> bool:
        """h11 checks the size of heads that come in pieces; one that comes whole is checked here."""
        limit = self._settings.max_header_size
        fed, self._fed = self._fed, 0
        if len(headers) > self._settings.max_header_count:
            return True
        return fed > limit and sum(len(name) + len(value) + 4 for name, value in headers) + len(request.target) > limit

    async def _body(self, data: bytes | bytearray) -> None:
        if self.stream is not None:
            await self.stream.handle(Body(STREAM_ID, bytes(data)))
        elif self.draining:
            self._drained += len(data)
            if self._drained > self._settings.drain_bytes:
                await self.send(Closed())

    async def _end_of_body(self) -> None:
        if self.stream is not None:
            await self.stream.handle(EndBody(STREAM_ID))
        elif self.draining:
            self.draining = False
            await self._recycle()

    async def stream_send(self, event: StreamEvent) -> None:
        """Take a part of the response."""
        if isinstance(event, Body):
            head, self._head = self._head, b""
            data = self.connection.send(h11.Data(data=event.data)) or b""
            if not head:
                if data:
                    await self.send(RawData(data))
            elif len(data) <= JOIN_BELOW:
                await self.send(RawData(head + data))
            else:
                await self.send(RawData(head))
                await self.send(RawData(data))
        elif isinstance(event, Response):
            headers = event.headers + self.config.response_headers("h11")
            if event.status_code < 200:
                response: Any = h11.InformationalResponse(headers=headers, status_code=event.status_code)
                await self.send(RawData(self.connection.send(response) or b""))
                return
            if (
                self.context.terminated.is_set()
                or self.keep_alive_requests >= self.config.keep_alive_max_requests
                or self.connection.they_are_waiting_for_100_continue  # whether the body comes is not known
            ):
                headers.append((b"connection", b"close"))
            self._head = self.connection.send(h11.Response(headers=headers, status_code=event.status_code)) or b""
        elif isinstance(event, EndBody):
            data = self._head + (self.connection.send(h11.EndOfMessage()) or b"")
            self._head = b""
            if data:
                await self.send(RawData(data))
        elif isinstance(event, StreamClosed):
            await self._maybe_recycle()

    async def _maybe_recycle(self) -> None:
        await self._close_stream()
        connection = self.connection
        if connection.our_state is h11.DONE and connection.their_state is h11.SEND_BODY:
            self.draining = True
            self._drained = 0
            await self.send(Updated(idle=True))  # the connection bounds what follows
        else:
            await self._recycle()

    async def _recycle(self) -> None:
        connection = self.connection
        if (
            connection.our_state is h11.DONE
            and connection.their_state is h11.DONE
            and not self.context.terminated.is_set()
        ):
            self._fed = len(connection.trailing_data[0])
            connection.start_next_cycle()
            await self.can_read.set()
            await self.send(Updated(idle=True))
        else:
            await self.can_read.set()
            await self.send(Closed())

    async def _send_continue(self) -> None:
        if self.connection.they_are_waiting_for_100_continue:
            answer = h11.InformationalResponse(status_code=100, headers=[])
            await self.send(RawData(self.connection.send(answer) or b""))

    async def _refuse(self, status: int, reason: str) -> None:
        """Answer a request that no handler may see, and close."""
        code, detail = _REFUSALS.get(status, ("bad_request", "The request is not valid HTTP/1.1."))
        problem = Problem(status, code, detail, headers={"Connection": "close"}, extra={"reason": reason})
        self._refused = True
        await send_problem(self.stream_send, STREAM_ID, problem)


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_REFUSALS = {
    431: ("headers_too_large", "The request line and headers are larger than this server takes."),
    501: ("not_implemented", "The request uses a method or transfer coding that this server does not support."),
    505: ("http_version", "This server speaks HTTP/1.0 and HTTP/1.1 here."),
}
