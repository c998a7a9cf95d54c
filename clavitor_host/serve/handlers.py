"""The application calls of one connection: started, counted, and cancelled with it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any, Protocol

from hypercorn.protocol.http_stream import ASGIHTTPState
from loguru import logger

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Any, Receive, Send], Awaitable[None]]

CANCEL_AFTER = 0.05
"""Seconds between `http.disconnect` and cancellation, in which a handler may end by itself."""

DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}


class ClientGone(ConnectionResetError):
    """Raised by `send` when nobody can receive what is sent (ASGI 2.4: an `OSError`)."""


class Inbox:
    """Messages from the connection to one handler, at most `limit` body bytes ahead of it."""

    __slots__ = ("_bytes", "_limit", "_messages", "_reader", "_writer", "before_wait", "disconnected", "taken")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: deque[Any] = deque()
        self._bytes = 0
        self.disconnected = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self.before_wait: Callable[[], Awaitable[None]] | None = None
        """Awaited once, before the handler first waits for the client (sends `100 Continue`)."""
        self.taken: Callable[[int], Awaitable[None]] | None = None
        """Told how many body bytes the handler has taken (opens the HTTP/2 window again)."""

    @property
    def ready(self) -> bool:
        """True when the next message is here already."""
        return bool(self._messages)

    async def put(self, message: Any) -> None:
        """Queue a message, waiting while `limit` bytes are ahead of the handler."""
        if message["type"].endswith(".disconnect"):
            self.disconnect()
            return
        self.put_nowait(message)
        while self._bytes > self._limit and not self.disconnected:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def put_nowait(self, message: Any) -> None:
        """Queue a message."""
        self._messages.append(message)
        self._bytes += len(message.get("body", b""))
        _wake(self._reader)

    def disconnect(self) -> None:
        """Throw away what is queued: from now on the handler receives `http.disconnect`."""
        self.disconnected = True
        self._messages.clear()
        self._bytes = 0
        _wake(self._reader)
        _wake(self._writer)

    async def receive(self) -> Any:
        """Return the next message: the ASGI `receive`."""
        messages = self._messages
        while not messages:
            if self.disconnected:
                return DISCONNECT
            if self.before_wait is not None:
                before_wait, self.before_wait = self.before_wait, None
                await before_wait()
                continue
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = messages.popleft()
        size = len(message.get("body", b""))
        if size:
            self._bytes -= size
            if self._bytes <= self._limit:
                _wake(self._writer)
            if self.taken is not None:
                await self.taken(size)
        return message


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class Handler:
    """One call of the application."""

    __slots__ = ("_cancel", "_group", "inbox", "send", "task")

    def __init__(self, group: Handlers, inbox: Inbox, send: Send) -> None:
        self._group = group
        self._cancel: asyncio.TimerHandle | None = None
        self.inbox = inbox
        self.send = send
        self.task: asyncio.Task[None]

    @property
    def answered(self) -> bool:
        """True when the whole response has been handed to the connection."""
        stream = getattr(self.send, "__self__", None)
        return getattr(stream, "state", None) is ASGIHTTPState.CLOSED

    async def run(self, app: ASGIApp, scope: Any) -> None:
        """Call the application, log what it raises, and let the stream end the response."""
        try:
            await app(scope, self.inbox.receive, self.send)
        except asyncio.CancelledError:
            logger.bind(component="serve", path=scope.get("path")).debug("Request cancelled")
        except Exception as error:  # noqa: BLE001 - the server outlives it
            log = logger.bind(component="serve", path=scope.get("path"))
            if isinstance(error, ClientGone) or (isinstance(error, ConnectionError) and self.inbox.disconnected):
                log.debug("The client went before its answer")
            else:
                log.opt(exception=error).error("Request failed")
        if not self._group.lost:
            with suppress(ClientGone):
                await self.send(None)

    def done(self, task: asyncio.Task[None]) -> None:
        """Forget the task, which may never have run a step."""
        if self._cancel is not None:
            self._cancel.cancel()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.bind(component="serve").opt(exception=error).error("Response failed")
        self._group.finished(self)

    def end(self, after: float = CANCEL_AFTER) -> None:
        """Tell the handler that its client is gone, and cancel it `after` seconds later."""
        self.inbox.disconnect()
        if self._cancel is None:
            self._cancel = asyncio.get_running_loop().call_later(after, self.task.cancel)


class Connected(Protocol):
    """What the handlers tell their connection."""

    def handlers_finished(self) -> None:
        """No handler is running any more."""


class Handlers:
    """The handlers of one connection. Also Hypercorn's `TaskGroup`, for its own protocols."""

    __slots__ = ("_app", "_connection", "_helpers", "_inbox_limit", "_loop", "lost", "running")

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop, connection: Connected, inbox_limit: int) -> None:
        self._app = app
        self._loop = loop
        self._connection = connection
        self._inbox_limit = inbox_limit
        self._helpers: set[asyncio.Task[None]] = set()
        self.running: set[Handler] = set()
        self.lost = False
        """True when the connection is gone, so nothing can be sent any more."""

    def start(self, scope: Any, send: Send, inbox: Inbox | None = None) -> Handler:
        """Call the application with `scope` in a task of its own."""
        handler = Handler(self, inbox if inbox is not None else Inbox(self._inbox_limit), send)
        self.running.add(handler)
        handler.task = self._loop.create_task(handler.run(self._app, scope))
        handler.task.add_done_callback(handler.done)
        return handler

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Callable[[Any], Awaitable[None]]:
        """Start a handler for a stock Hypercorn stream; return where its messages go."""
        return self.start(scope, send).inbox.put

    def spawn(self, func: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run a helper of the protocol (such as HTTP/2's sending task) as long as the connection lives."""
        task = self._loop.create_task(func(*args))
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    def finished(self, handler: Handler) -> None:
        """Forget a handler that has returned."""
        self.running.discard(handler)
        if not self.running:
            self._connection.handlers_finished()

    def connection_lost(self, tail: float) -> None:
        """End everything. A handler that has answered gets `tail` seconds for its last steps."""
        self.lost = True
        for task in self._helpers:
            task.cancel()
        for handler in self.running:
            handler.end(tail if handler.answered else CANCEL_AFTER)

    def cancel(self) -> None:
        """Cancel what still runs, now."""
        for handler in self.running:
            handler.end(0)
