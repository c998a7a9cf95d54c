"""Request bodies within bounds: size from the headers, size as it comes, and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from loguru import logger

from clavitor_host.errors import Problem
from clavitor_host.http import problem_reply
from clavitor_host.serve.handlers import ASGIApp, Inbox, Receive, Send
from clavitor_host.serve.settings import ServeSettings

MAX_DIGITS = 19


class BodyLimits:
    """ASGI middleware that bounds request bodies.

    A body that announces more than `limit_for(method, path)` bytes is answered 413 from the headers alone; one that
    turns out larger, or that stalls, ends the application's `receive` with a `Problem` (413 or 408), which the
    application may answer itself and this middleware answers otherwise. Every such answer says `connection: close`,
    and the connection then reads and drops what the client still sends, within its own bounds, so that the client
    can read the answer.
    """

    def __init__(self, app: ASGIApp, limit_for: Callable[[str, str], int], settings: ServeSettings) -> None:
        self._app = app
        self._limit_for = limit_for
        self._timeout = settings.body_timeout
        self._min_rate = settings.body_min_rate

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            size = _announced_size(scope)
        except Problem as problem:
            await _answer(send, problem)
            return
        if size == 0:
            await self._app(scope, receive, send)
            return
        limit = self._limit_for(scope["method"], scope["path"])
        if size is not None and size > limit:
            await _answer(send, too_large(limit))
            return
        body = _Body(receive, send, limit, self._timeout, self._min_rate)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception as error:
            if body.refusal is None or body.started:
                raise
            if error is not body.refusal:
                logger.bind(component="serve", path=scope["path"]).opt(exception=error).debug("Body refused")
            await _answer(send, body.refusal)


def _announced_size(scope: Any) -> int | None:
    """Return the body's size, 0 for no body, None when only its end will tell. Raises `Problem` 400."""
    length: bytes | None = None
    chunked = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            if length is not None and length != value:
                raise _contradiction()
            length = value
        elif name == b"transfer-encoding":
            chunked = True
    if length is None:
        return None if chunked or scope["http_version"] >= "2" else 0
    if chunked or not length.isdigit() or len(length) > MAX_DIGITS:
        raise _contradiction()
    return int(length)


def _contradiction() -> Problem:
    detail = "Content-Length is not one number, or comes together with Transfer-Encoding."
    return Problem(400, "invalid_content_length", detail)


def too_large(limit: int) -> Problem:
    """Return the 413 that names the limit in bytes."""
    detail = f"The request body is larger than the {limit} bytes that are taken here."
    return Problem(413, "body_too_large", detail, extra={"limit": limit})


class _Body:
    """One body on its way in."""

    __slots__ = (
        "_ended",
        "_limit",
        "_min_rate",
        "_receive",
        "_received",
        "_send",
        "_timeout",
        "_waited",
        "refusal",
        "started",
    )

    def __init__(self, receive: Receive, send: Send, limit: int, timeout: float, min_rate: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._timeout = timeout
        self._min_rate = min_rate
        self._received = 0
        self._waited = 0.0
        self._ended = False
        self.refusal: Problem | None = None
        self.started = False

    async def receive(self) -> Any:
        """Return the next message of the body. Raises `Problem` 413 or 408."""
        if self._ended:
            return await self._receive()
        if self.refusal is not None:
            raise self.refusal
        message = await self._receive_in_time()
        if message["type"] != "http.request":
            self._ended = True
            return message
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            self.refusal = too_large(self._limit)
            raise self.refusal
        self._ended = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Any:
        """The clock runs only while the application waits for the client."""
        inbox = getattr(self._receive, "__self__", None)
        if isinstance(inbox, Inbox) and inbox.ready:  # no waiting, no clock
            return await self._receive()
        clock = asyncio.get_running_loop().time
        began = clock()
        left = self._timeout + self._received / self._min_rate - self._waited
        try:
            async with asyncio.timeout_at(began + min(self._timeout, left)):
                return await self._receive()
        except TimeoutError:
            self.refusal = Problem(408, "body_timeout", "The request body took too long to arrive.")
            raise self.refusal from None
        finally:
            self._waited += clock() - began

    async def send(self, message: Any) -> None:
        """Pass a message on; a refusal closes the connection."""
        if message["type"] == "http.response.start":
            self.started = True
            if self.refusal is not None:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await self._send(message)


async def _answer(send: Send, problem: Problem) -> None:
    reply = problem_reply(problem)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(reply.body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})
