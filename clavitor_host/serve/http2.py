"""HTTP/2 over h2: Hypercorn's protocol with its traps closed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from h2.connection import ConnectionState
from hypercorn.events import Closed, Updated
from hypercorn.protocol.events import EndBody, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.utils import filter_pseudo_headers
from priority.priority import PriorityError

from clavitor_host.serve.handlers import ClientGone, Handlers, Inbox
from clavitor_host.serve.settings import ServeSettings
from clavitor_host.serve.stream import Stream

CONNECTION_WINDOW = 256 * 1024
"""Body bytes a client may send ahead over all its requests together."""

LEAST_PROGRESS = 1024
"""A response that waits for its client must move this many bytes, or all it has, in `send_timeout`."""


class Buffer(StreamBuffer):
    """The unsent part of a response, which knows how much of it has moved since it was last asked."""

    def __init__(self, event_class: Any) -> None:
        super().__init__(event_class)
        self.moved = 0
        self.watched = False

    async def pop(self, max_length: int) -> bytes:
        """Return up to `max_length` bytes to send."""
        data = await super().pop(max_length)
        self.moved += len(data)
        return data

    def stalled(self) -> bool:
        """True when it waited through the whole time since the last call and hardly moved."""
        waiting = bool(self.buffer)
        stalled = waiting and self.watched and self.moved < LEAST_PROGRESS
        self.watched, self.moved = waiting, 0
        return stalled


class Http2Protocol(H2Protocol):
    """One HTTP/2 connection.

    Differs from Hypercorn's: a request whose handler does not read holds up no other; the client's window opens as
    the handler reads; data after an early answer is dropped, not a crash; resets are counted; priorities are not
    kept; an unfinished response is reset.
    """

    streams: dict[int, Stream]  # type: ignore[assignment]
    stream_buffers: dict[int, Buffer]  # type: ignore[assignment]
    task_group: Handlers  # type: ignore[assignment]
    complete = True
    draining = False
    linger = False

    def __init__(self, settings: ServeSettings, *args: Any) -> None:
        super().__init__(*args)
        self._settings = settings
        self._resets = 0
        codes = h2.settings.SettingCodes
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: settings.h2_max_concurrent_streams,
                codes.MAX_HEADER_LIST_SIZE: settings.max_header_size,
            },
        )
        self.connection.decoder.max_header_list_size = settings.max_header_size
        self.connection.max_inbound_frame_size = self.connection.local_settings.max_frame_size

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Send the connection preface."""
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        await self._flush()
        self.task_group.spawn(self.send_task)

    def farewell(self) -> bytes:
        """Return what ends the connection. Not sent while requests are open: h2's clients would drop them."""
        if self.connection.state_machine.state is not ConnectionState.CLOSED:
            self.connection.close_connection()
        return bytes(self.connection.data_to_send())

    async def send_task(self) -> None:
        """Send response data as the client's windows allow, until the connection ends."""
        try:
            await super().send_task()
        except ClientGone:
            pass
        except (KeyError, PriorityError, h2.exceptions.H2Error):
            await self.send(Closed())

    async def cut_stalled(self) -> None:
        """Reset the responses that their client does not read. Called every `send_timeout` seconds."""
        for stream_id, buffer in list(self.stream_buffers.items()):
            if buffer.stalled():
                await self._reset(stream_id, h2.errors.ErrorCodes.CANCEL)

    async def stream_send(self, event: StreamEvent) -> None:
        """Take a part of a response."""
        if isinstance(event, StreamClosed):
            stream = self.streams.get(event.stream_id)
            if stream is not None and stream.state is not ASGIHTTPState.CLOSED:
                await self._reset(event.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await super().stream_send(event)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                await self._request(event)
            elif isinstance(event, h2.events.DataReceived):
                self._data(event)
            elif isinstance(event, h2.events.StreamEnded):
                if (stream := self.streams.get(event.stream_id)) is not None:
                    await stream.handle(EndBody(stream_id=event.stream_id))
            elif isinstance(event, h2.events.StreamReset):
                await self._count_reset()
                await self._close_stream(event.stream_id)
                await self._window_updated(event.stream_id)
            elif isinstance(event, h2.events.WindowUpdated):
                await self._window_updated(event.stream_id)
            elif isinstance(event, h2.events.RemoteSettingsChanged):
                if h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    await self._window_updated(None)
            elif isinstance(event, h2.events.ConnectionTerminated):
                await self.send(Closed())
        await self._flush()

    async def _request(self, event: h2.events.RequestReceived) -> None:
        pseudo = {name: value for name, value in event.headers or () if name[:1] == b":"}
        method, path = bytes(pseudo.get(b":method", b"")), bytes(pseudo.get(b":path", b""))
        if self.context.terminated.is_set():
            await self._reset(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif not (method.isalpha() and path.isascii() and path) or method == b"CONNECT":
            await self._reset(event.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        else:
            await self.send(Updated(idle=False))
            await self._create_stream(event)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        stream = Stream(
            self.app,
            self.config,
            self.context,
            self.task_group,  # type: ignore[arg-type]
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        stream.inbox = Inbox(self._settings.receive_buffer)
        self.streams[stream_id] = stream
        self.stream_buffers[stream_id] = Buffer(self.context.event_class)
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        headers: list[tuple[bytes, bytes]] = [(bytes(name), bytes(value)) for name, value in request.headers or ()]
        pseudo = dict(headers)
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(headers),
                http_version="2",
                method=pseudo[b":method"].decode("ascii").upper(),
                raw_path=pseudo[b":path"],
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    def _data(self, event: h2.events.DataReceived) -> None:
        stream_id, size = event.stream_id, event.flow_controlled_length or 0
        data = bytes(event.data or b"")
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            self.connection.acknowledge_received_data(size, stream_id)
            if stream_id not in self.stream_buffers:  # answered: the rest of the body is not wanted
                with suppress(h2.exceptions.ProtocolError):
                    self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
            return
        self.connection.acknowledge_received_data(size - len(data), stream_id)  # padding
        if data:
            if stream.inbox.taken is None:
                stream.inbox.taken = lambda taken: self._taken(stream_id, taken)
            stream.unread += len(data)
            stream.inbox.put_nowait({"type": "http.request", "body": data, "more_body": True})

    async def _taken(self, stream_id: int, size: int) -> None:
        if (stream := self.streams.get(stream_id)) is not None:
            stream.unread -= size
            self.connection.acknowledge_received_data(size, stream_id)
            await self._flush()

    async def _close_stream(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and stream.unread:
            self.connection.acknowledge_received_data(stream.unread, stream_id)
        await super()._close_stream(stream_id)
        if not self.streams:
            await self.send(Updated(idle=True))

    async def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > self._settings.h2_max_resets + self.keep_alive_requests // 2:
            self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            await self._flush()
            await self.send(Closed())

    async def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        try:
            self.connection.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return  # closed already
        await self._flush()
        await self._close_stream(stream_id)
        if (buffer := self.stream_buffers.get(stream_id)) is not None:
            await buffer.close()
            self.priority.unblock(stream_id)
            await self.has_data.set()
