"""The outermost ASGI application: request ids, response headers, request metrics, and the hot routes.

A hot route is an ordinary `Endpoint` that is called without the web framework in between. Everything else goes
to Quart. Both get the same `Request`, run the same checks and answer the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

from clavitor_host import log
from clavitor_host.endpoint import Endpoint
from clavitor_host.http import Reply, Request, incomplete_body
from clavitor_host.web.request_metrics import RequestMetrics

if TYPE_CHECKING:
    from clavitor_host.host import Host

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOT_PATH = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOT_ROUTE = "/api/entries/<entry_id>"

_API_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)
_PAGE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    *_API_HEADERS,
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""What a browser is told of everything that is not JSON."""


class Gateway:
    """Wraps the Quart application. `hot` maps methods to the endpoints behind `prefix`."""

    def __init__(self, host: Host, app: ASGIApp, *, prefix: bytes, hot: Mapping[str, Endpoint]) -> None:
        self._host = host
        self._app = app
        self._prefix = prefix
        self._hot = hot
        process = f"{os.getpid():x}-{os.urandom(3).hex()}"
        self._ids = (f"{process}-{number:x}" for number in count(1))
        self._metrics = RequestMetrics(host.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        request_id = self._request_id(scope["headers"])
        log.request_id.set(request_id)
        raw_path: bytes = scope["raw_path"]
        if raw_path.startswith(self._prefix):
            operation = self._hot.get(scope["method"])
            name = raw_path[len(self._prefix) :]
            if operation is not None and _HOT_PATH.fullmatch(name):
                status = await self._serve_hot(operation, name.decode("ascii"), scope, receive, send, request_id)
                self._count(scope, _HOT_ROUTE, status, start)
                return
        status = await self._serve_ordinary(scope, receive, send, request_id)
        self._count(scope, scope["state"].get("route", ""), status, start)

    async def _serve_hot(
        self, operation: Endpoint, name: str, scope: Scope, receive: Receive, send: Send, request_id: str
    ) -> int:
        client = scope["client"]
        body = _BodyReader(receive)
        request = Request(
            host=self._host,
            method=scope["method"],
            path=scope["path"],
            raw_query=scope["query_string"],
            headers=scope["headers"],
            client=client[0] if client else "",
            scheme=scope["scheme"],
            id=request_id,
            body=body,
            stream=body.pieces,
            peer_certificate=scope["state"].get("peer_certificate") if "state" in scope else None,
        )
        reply = await operation.run(request, {"entry_id": name})
        whole = scope.get("extensions", {}).get("clavitor.reply")
        if whole is not None and await whole(reply.status, head_lines(reply, request_id), reply.body):
            return reply.status
        await send({"type": "http.response.start", "status": reply.status, "headers": _head(reply, request_id)})
        await send({"type": "http.response.body", "body": reply.body})
        return reply.status

    async def _serve_ordinary(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> int:
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower(): value for name, value in message["headers"]}
                is_json = b"json" in given.get(b"content-type", b"")
                extra = [header for header in (_API_HEADERS if is_json else _PAGE_HEADERS) if header[0] not in given]
                extra.append((b"x-request-id", request_id.encode()))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self._app(scope, receive, send_with_headers)
        return status

    def _request_id(self, headers: list[tuple[bytes, bytes]]) -> str:
        for name, value in headers:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return value.decode("ascii")
        return next(self._ids)

    def _count(self, scope: Scope, route: str, status: int, start: float) -> None:
        seconds = perf_counter() - start
        self._metrics.count(scope["method"], route, status, seconds)
        if self._host.access_log:
            log.info(
                "Request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                client=(scope["client"] or ("",))[0],
                seconds=round(seconds, 6),
            )


_FIXED = b"".join(b"%s: %s\r\n" % header for header in _API_HEADERS)


def head_lines(reply: Reply, request_id: str) -> bytes:
    """Return the header lines of a reply."""
    parts = [f"x-request-id: {request_id}\r\n"]
    if reply.status not in (204, 304):
        parts.append(f"content-length: {len(reply.body)}\r\n")
    if reply.content_type is not None:
        parts.append(f"content-type: {reply.content_type}\r\n")
    for name, value in reply.headers.items():
        if "\n" in value or "\r" in value or "\0" in value:
            raise ValueError(f"{name}: a header value cannot have control characters")
        parts.append(f"{name}: {value}\r\n")
    return _FIXED + "".join(parts).encode("latin-1")


def _head(reply: Reply, request_id: str) -> list[tuple[bytes, bytes]]:
    head = [
        *_API_HEADERS,
        (b"x-request-id", request_id.encode()),
        (b"content-length", b"%d" % len(reply.body)),
    ]
    if reply.status in (204, 304):
        head.pop()
    if reply.content_type is not None:
        head.append((b"content-type", reply.content_type.encode()))
    head.extend((name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers.items())
    return head


class _BodyReader:
    """Reads a request body once, on demand; its size and pace are bounded further out."""

    __slots__ = ("_data", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._data: bytes | None = None

    async def __call__(self) -> bytes:
        if self._data is None:
            message = await self._next()
            if not message.get("more_body"):
                self._data = message.get("body", b"")
            else:
                parts = [message.get("body", b"")]
                while message.get("more_body"):
                    message = await self._next()
                    parts.append(message.get("body", b""))
                self._data = b"".join(parts)
        return self._data

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""
        if self._data:
            yield self._data
        more = self._data is None
        while more:
            message = await self._next()
            if data := message.get("body", b""):
                yield data
            more = message.get("more_body", False)

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise incomplete_body()
        return message
