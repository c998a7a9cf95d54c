"""One HTTP request and its response between a Hypercorn protocol and the application."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.utils import build_and_validate_headers, suppress_body

from clavitor_host.errors import Problem
from clavitor_host.http import problem_reply
from clavitor_host.serve.handlers import ClientGone, Handler, Handlers, Inbox

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

_ASGI = {"spec_version": "2.4", "version": "3.0"}


class WholeReplies(Protocol):
    """A protocol that can send a whole reply at once, and hand its connection over."""

    async def reply(self, stream: Stream, status: int, head: bytes, body: bytes) -> bool:
        """Send it, or return False having sent nothing."""
        ...

    async def hand_over(self, body: bytes, receiver: Callable[[socket.socket], None] | None) -> bool:
        """Send the head and `body`; return whether `receiver` has the connection's socket now."""
        ...


class Stream(HTTPStream):
    """Hypercorn's HTTP stream, with the handler cancelled with it and every error a problem+json."""

    task_group: Handlers  # type: ignore[assignment]
    handler: Handler | None = None
    inbox: Inbox
    unread: int = 0
    """Body bytes received that the handler has not taken (HTTP/2 only)."""

    protocol: WholeReplies | None = None
    """The protocol, where it can send a whole reply at once (HTTP/1)."""

    handed_over = False
    """True when the connection belongs to somebody else."""

    async def reply(self, status: int, head: bytes, body: bytes) -> bool:
        """Answer at once: the ASGI extension `clavitor.reply`.

        `head`: header lines as they go out, each with its CRLF, Content-Length among them. False: nothing was sent,
        answer the usual way.
        """
        if self.closed or self.protocol is None or self.state is not ASGIHTTPState.REQUEST:
            return False
        return await self.protocol.reply(self, status, head, body)

    async def hand_over(self, body: bytes, receiver: Callable[[socket.socket], None]) -> bool:
        """Give the connection away after the head: the ASGI extension `clavitor.hand_over`.

        Head and `body` are sent in any case. True: `receiver` has been called with the socket, and what the application
        still sends is dropped. False: go on with the body the usual way.
        """
        if self.closed or self.protocol is None or self.state is not ASGIHTTPState.RESPONSE:
            return False
        is_head = self.scope["method"] == "HEAD"
        sized = any(name.lower() == b"content-length" for name, _ in self.response["headers"])
        taker = receiver if sized and not is_head else None  # the receiver knows nothing of chunks
        self.handed_over = await self.protocol.hand_over(b"" if is_head else body, taker)
        if self.handed_over:
            self.answered()
        return self.handed_over

    def answered(self) -> None:
        """Hear that a whole reply has been sent."""
        self.state = ASGIHTTPState.CLOSED
        self.closed = True
        self.inbox.disconnect()

    def _extensions(self) -> dict[str, Any]:
        if self.protocol is None:
            return {}
        if self.scheme == "https":
            return {"clavitor.reply": self.reply}
        return {"clavitor.reply": self.reply, "clavitor.hand_over": self.hand_over}

    async def handle(self, event: Event) -> None:
        """Take an event from the protocol."""
        if self.closed:
            return
        if isinstance(event, Request):
            path, _, query = event.raw_path.partition(b"?")
            self.scope = {
                "type": "http",
                "http_version": event.http_version,
                "asgi": _ASGI,  # type: ignore[typeddict-item]
                "method": event.method,
                "scheme": self.scheme,
                "path": unquote(path.decode("ascii")),
                "raw_path": path,
                "query_string": query,
                "root_path": "",
                "headers": event.headers,
                "client": self.client,
                "server": self.server,
                "state": event.state.copy(),  # type: ignore[typeddict-item]
                "extensions": self._extensions(),
            }
            self.handler = self.task_group.start(self.scope, self.app_send, self.inbox)
        elif isinstance(event, Body):
            await self.inbox.put({"type": "http.request", "body": bytes(event.data), "more_body": True})
        elif isinstance(event, EndBody):
            self.inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        elif isinstance(event, StreamClosed):
            self.closed = True
            self.inbox.disconnect()
            if self.handler is not None and self.state is not ASGIHTTPState.CLOSED:
                self.handler.end()

    async def app_send(self, message: Any) -> None:
        """Take a message from the application; None when it has returned."""
        if self.handed_over:
            return
        if message is None:
            await super().app_send(None)
            return
        if self.closed and self.state is not ASGIHTTPState.CLOSED:
            await asyncio.sleep(0)  # a handler that ignores the error must not spin
            raise ClientGone("the client has reset its request")
        kind = message["type"]
        state = self.state
        if kind == "http.response.body" and state is ASGIHTTPState.RESPONSE:
            body = message.get("body", b"")
            more = message.get("more_body", False)
            waiting = more and self.protocol is not None  # HTTP/1 keeps the head for the first piece
            if (body or waiting) and not suppress_body(self.scope["method"], self.response["status"]):
                await self.send(Body(stream_id=self.stream_id, data=bytes(body)))
            if not more:
                await self._send_closed()
        elif kind == "http.response.start" and state is ASGIHTTPState.REQUEST:
            headers = build_and_validate_headers(message.get("headers", ()))
            self.response = message
            await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=int(message["status"])))
            self.state = ASGIHTTPState.RESPONSE
        else:
            await super().app_send(message)

    async def _send_closed(self) -> None:
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_error_response(self, status_code: int) -> None:
        problem = Problem(status_code, "internal_error", "The server failed to answer this request.")
        await send_problem(self.send, self.stream_id, problem)
        self.state = ASGIHTTPState.CLOSED


async def send_problem(send: Callable[[Event], Awaitable[None]], stream_id: int, problem: Problem) -> None:
    """Answer a stream with problem+json, without the application."""
    headers, body = _answer(problem)
    await send(Response(stream_id=stream_id, headers=headers, status_code=problem.status))
    await send(Body(stream_id=stream_id, data=body))
    await send(EndBody(stream_id=stream_id))


def http1_answer(problem: Problem) -> bytes:
    """Return a whole HTTP/1.1 answer with problem+json that closes the connection, for use without a protocol."""
    headers, body = _answer(problem)
    lines = [b"HTTP/1.1 %d %s" % (problem.status, problem.title.encode("latin-1")), b"connection: close"]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", body])


def _answer(problem: Problem) -> tuple[list[tuple[bytes, bytes]], bytes]:
    reply = problem_reply(problem)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(reply.body)),
        *((name.lower().encode("ascii"), value.encode("latin-1")) for name, value in reply.headers.items()),
    ]
    return headers, reply.body
