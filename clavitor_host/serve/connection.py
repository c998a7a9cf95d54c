"""One accepted connection: bytes in and out, one timer, and an end that is always reached.

Takes the place of Hypercorn's `TCPServer`, which holds a task per timeout and learns of a lost client only
between two reads. The protocols above it are Hypercorn's (see `protocols`).
"""

from __future__ import annotations

import asyncio
import ssl
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.typing import ConnectionState
from loguru import logger

from clavitor_host.errors import Problem
from clavitor_host.serve.deadlines import Deadlines
from clavitor_host.serve.hand_over import HandOver, send_and_release
from clavitor_host.serve.handlers import ClientGone, Handlers
from clavitor_host.serve.handshake import start_tls
from clavitor_host.serve.protocols import Link
from clavitor_host.serve.stream import http1_answer

if TYPE_CHECKING:
    from clavitor_host.serve.server import Server

READ_AHEAD = 64 * 1024
"""Bytes read ahead of the protocol; the client waits after that."""

WRITE_AHEAD = 64 * 1024
"""Bytes written ahead of the client; the handler waits after that, and `send_timeout` runs."""


class Phase(IntEnum):
    """Where a connection is; its deadline means something else in each."""

    HANDSHAKE = 0
    """TLS."""
    IDLE = 1
    """No request; waiting for the first byte of one."""
    HEAD = 2
    """Part of a request head has arrived."""
    BUSY = 3
    """A handler runs, or its answer is being sent."""
    LINGER = 4
    """Everything is said; what the client still sends is thrown away, so that it can read the answer."""
    CLOSING = 5
    """The last bytes are on their way out."""
    LOST = 6
    """Gone."""


class Connection(asyncio.Protocol):
    """One client. `tls`: the context to shake hands with, None for plain text."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._settings = server.settings
        self._loop = server.loop
        self._tls = tls
        self._raw: Any = None  # the socket's own transport
        self._transport: Any = None  # the same, or TLS over it
        self._protocol: Any = None
        self._pump: asyncio.Task[None] | None = None
        self._phase = Phase.HANDSHAKE
        self._refused = False
        # reading
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._eof = False
        self._reader: asyncio.Future[None] | None = None
        self._requests = 0
        # writing
        self._paused = False
        self._writers: list[asyncio.Future[None]] = []
        self._deadlines = Deadlines(server.loop, self._expire, self._stalled)
        self.handlers = Handlers(server.app, server.loop, self, self._settings.receive_buffer)

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, or refuse it."""
        self._raw = self._transport = transport
        self._refused = not self._server.admit(self)
        if self._phase is Phase.LOST:
            return
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD)
        if self._tls is None:
            if self._refused:
                self._refuse()
                return
            self._deadlines.phase(self._settings.header_timeout)
        else:
            self._deadlines.phase(self._settings.tls_handshake_timeout)
        self._pump = self._loop.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        """Keep bytes for the protocol."""
        self._buffered += len(data)
        if self._phase >= Phase.LINGER:
            if self._buffered > self._settings.drain_bytes:
                self.abort()
            return
        self._chunks.append(data)
        if self._buffered > READ_AHEAD:
            self._transport.pause_reading()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def eof_received(self) -> bool:
        """Take the end of what the client sends; keep a plain connection open for the answer."""
        self._eof = True
        if self._phase >= Phase.LINGER or self._tls is not None:
            return False
        if self._phase is Phase.BUSY:
            self._deadlines.phase(self._settings.half_close_grace)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        return True

    def pause_writing(self) -> None:
        """Let senders wait, for `send_timeout` at most."""
        self._paused = True
        self._deadlines.send(self._settings.send_timeout)

    def resume_writing(self) -> None:
        """Let senders go on."""
        self._paused = False
        self._deadlines.sent()
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what belongs to this connection."""
        if self._phase is Phase.LOST:
            return
        self._phase = Phase.LOST
        self._deadlines.stop()
        self._paused = False
        self._wake_writers()
        if self._pump is not None and not self._pump.done():
            if self._reader is not None and not self._reader.done():
                self._reader.set_result(None)
            else:
                self._pump.cancel()
        self.handlers.connection_lost(self._settings.graceful)
        if not self.handlers.running:
            self._server.forget(self)

    # --- what the server calls

    @property
    def busy(self) -> bool:
        """True while a request is answered or an answer has not left the process."""
        if self._phase is Phase.LOST:
            return bool(self.handlers.running)
        return self._phase is Phase.BUSY or bool(self._raw.get_write_buffer_size())

    def shutdown(self) -> None:
        """Take no further request: close now when idle, else after the requests in flight."""
        if self._phase is Phase.HANDSHAKE:
            self.abort()
        elif self._phase in (Phase.IDLE, Phase.HEAD):
            self._close(linger=False)

    def abort(self) -> None:
        """Close without ceremony; handlers are told and cancelled."""
        if self._phase is not Phase.LOST:
            self._raw.abort()
            self.connection_lost(None)

    def handlers_finished(self) -> None:
        """No handler is running any more."""
        if self._phase is Phase.LOST:
            self._server.forget(self)

    # --- what the protocol calls

    async def send(self, event: Event) -> None:
        """Take bytes for the client, a change between busy and idle, or the wish to close or to be handed over."""
        if isinstance(event, RawData):
            if self._phase >= Phase.LINGER:
                await asyncio.sleep(0)
                raise ClientGone("the connection is closed")
            self._transport.write(event.data)
            while self._paused:
                future = self._loop.create_future()
                self._writers.append(future)
                await future
        elif isinstance(event, Updated):
            self._updated(event.idle)
        elif isinstance(event, Closed):
            self._close(linger=getattr(self._protocol, "linger", False))
        elif isinstance(event, HandOver):
            left = self._hand_over(event)
            if not event.done:
                await self.send(RawData(left))

    def _hand_over(self, event: HandOver) -> bytes:
        """Send and let go, if that can be; return what is left to send. The transport then calls `connection_lost`."""
        if (
            self._tls is not None
            or self._phase is not Phase.BUSY
            or self._chunks
            or self._server.stopping
            or self._raw.is_closing()
            or self._raw.get_write_buffer_size()
        ):
            return event.data
        left = send_and_release(self._raw, event)
        if event.done:
            self._phase = Phase.CLOSING
            self._deadlines.stop()
        return left

    def _updated(self, idle: bool) -> None:
        if self._phase >= Phase.LINGER:
            return
        if not idle:
            self._phase = Phase.BUSY
            self._requests += 1
            if self._eof:
                self._deadlines.phase(self._settings.half_close_grace)
            elif hasattr(self._protocol, "cut_stalled"):
                self._deadlines.phase(self._settings.send_timeout)
            else:
                self._deadlines.no_phase()
        elif self._server.stopping:
            self._close(linger=False)
        else:
            self._phase = Phase.IDLE
            if getattr(self._protocol, "draining", False):
                self._deadlines.phase(self._settings.drain_timeout)
            elif self._eof and not self._chunks:
                self._close(linger=False)
            else:
                self._deadlines.phase(self._settings.idle_timeout)

    # --- the pump

    async def _run(self) -> None:
        try:
            if self._tls is not None:
                await self._handshake(self._tls)
                if self._refused:
                    self._refuse()
                    return
            await self._speak("http/1.1" if self._tls is None else None)
        except (OSError, asyncio.CancelledError):
            pass  # the client went, or the server stops
        except Exception as error:  # noqa: BLE001 - the server outlives it
            logger.bind(component="serve").opt(exception=error).error("Connection failed")
        finally:
            await self._end()

    async def _handshake(self, context: ssl.SSLContext) -> None:
        self._transport = await start_tls(
            self._raw,
            self,
            context,
            early=self._read,
            handshake_timeout=self._settings.tls_handshake_timeout,
            shutdown_timeout=self._settings.drain_timeout,
        )
        if self._phase is Phase.LOST:
            raise ConnectionResetError
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD)
        self._deadlines.phase(self._settings.header_timeout)

    async def _speak(self, alpn: str | None) -> None:
        certificate = None
        if alpn is None:
            ssl_object = self._transport.get_extra_info("ssl_object")
            certificate = ssl_object.getpeercert() or None
            alpn = ssl_object.selected_alpn_protocol() or "http/1.1"
        link = Link(
            self._server.app,
            self._settings,
            self._server.config,
            self._server.context,
            self.handlers,
            ConnectionState({**self._server.state, "peer_certificate": certificate}),
            self._tls is not None,
            _address(self._raw.get_extra_info("peername")),
            _address(self._raw.get_extra_info("sockname")),
            self.send,
            alpn,
        )
        self._phase = Phase.IDLE
        protocol = self._protocol = self._server.protocols(link)
        await protocol.initiate()
        while self._phase < Phase.LINGER:
            if not self._chunks:
                if self._eof:
                    await self._half_closed()
                    return
                self._reader = self._loop.create_future()
                await self._reader
                self._reader = None
                continue
            data = self._read()
            requests = self._requests
            try:
                await protocol.handle(RawData(data))
            except (H2ProtocolAssumedError, H2CProtocolRequiredError) as error:
                protocol = await self._switch(link, error.data)
            if self._phase is Phase.IDLE and self._requests == requests and not hasattr(protocol, "cut_stalled"):
                self._partial_head()

    def _partial_head(self) -> None:
        if not getattr(self._protocol, "draining", False):
            self._phase = Phase.HEAD
            self._deadlines.phase(self._settings.header_timeout)

    def _read(self) -> bytes:
        chunks, self._chunks = self._chunks, []
        if self._buffered > READ_AHEAD:
            self._transport.resume_reading()
        self._buffered = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _switch(self, link: Link, data: bytes) -> Any:
        """Go on with HTTP/2, which the client began without asking."""
        values = {name: getattr(link, name) for name in Link.__slots__}
        self._protocol = self._server.protocols(Link(**{**values, "alpn": "h2"}))
        await self._protocol.initiate()
        if data:
            await self._protocol.handle(RawData(data))
        return self._protocol

    async def _half_closed(self) -> None:
        """The client sends no more. What it asked for in full is still answered, within `half_close_grace`."""
        if self._phase is Phase.BUSY and getattr(self._protocol, "complete", True):
            self._deadlines.phase(self._settings.half_close_grace)
            self._reader = self._loop.create_future()
            await self._reader  # until the connection is closed
        else:
            self._close(linger=False)

    async def _end(self) -> None:
        if self._protocol is not None:
            try:
                await self._protocol.handle(Closed())
            except (OSError, asyncio.CancelledError):
                pass
            except Exception as error:  # noqa: BLE001 - the server outlives it
                logger.bind(component="serve").opt(exception=error).error("Connection failed at its end")
        if self._phase < Phase.LINGER:
            if self._phase is Phase.HANDSHAKE:
                self.abort()
            else:
                self._close(linger=False)

    # --- what the timer calls

    def _stalled(self) -> None:
        logger.bind(component="serve").debug("Client does not read: connection cut off")
        self.abort()

    def _expire(self) -> None:
        if self._phase is Phase.HEAD:
            self._transport.write(
                http1_answer(Problem(408, "request_timeout", "The request head took too long to arrive."))
            )
            self._close(linger=True)
        elif self._phase is Phase.IDLE:
            self._close(linger=False)
        elif self._phase is Phase.BUSY and not self._eof:
            self.handlers.spawn(self._protocol.cut_stalled)
            self._deadlines.phase(self._settings.send_timeout)
        else:
            self.abort()

    # --- the end

    def _refuse(self) -> None:
        """Answer that the server is full, without reading the request."""
        if self._tls is None or self._transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            detail = "The server has as many open connections as it is allowed to."
            headers = {"Retry-After": str(self._settings.retry_after)}
            self._transport.write(http1_answer(Problem(503, "too_many_connections", detail, headers=headers)))
        self._close(linger=True)

    def _close(self, *, linger: bool) -> None:
        """Send what is written, then close; with `linger` the client gets time to read it first."""
        if self._phase >= Phase.LINGER:
            return
        self._buffered = 0
        self._chunks.clear()
        if linger:
            self._phase = Phase.LINGER
            self._deadlines.phase(self._settings.drain_timeout)
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            if hasattr(self._protocol, "farewell"):
                self._transport.write(self._protocol.farewell())
            self._phase = Phase.CLOSING
            self._deadlines.phase(self._settings.send_timeout)
            self._transport.close()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        for future in self._writers:
            if not future.done():
                future.set_result(None)
        self._writers.clear()


def _address(name: Any) -> tuple[str, int] | None:
    """Return host and port of a TCP address, None for a unix socket."""
    return (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 else None
