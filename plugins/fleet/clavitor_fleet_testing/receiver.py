"""A real HTTP server that takes webhooks, and answers them as a test says."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

LOOPBACK = '["127.0.0.0/8"]'
"""For CLAVITOR_FLEET_OUTBOUND_ALLOW: what a receiver of a test needs."""
PATIENCE = 20.0


class Received(NamedTuple):
    """One request. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def signed_with(self, secret: str) -> bool:
        """Check the signature as a receiver does, by the documentation alone."""
        signed = self.headers["x-clavitor-timestamp"].encode() + b"." + self.body
        digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        return hmac.compare_digest(self.headers["x-clavitor-signature"], f"sha256={digest}")


class Receiver:
    """`answer`: what each request is answered with: a status, or "hang", "reset", "garbage", a redirect's target."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], int | str] = lambda _: 204
        self.headers: dict[str, str] = {}
        self.connections = 0
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=in-the-url"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self, number: int) -> list[Received]:
        """Wait until so many requests have come; return them all."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: len(self.received) >= number)
        return self.received

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._one(reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Received(head[0].split()[1], headers, body)
        answer = self.answer(request)
        async with self._changed:
            self.received.append(request)
            self._changed.notify_all()
        if answer == "hang":
            await asyncio.sleep(3600)
        elif answer == "garbage":
            writer.write(b"\x00\x01not http\r\n\r\n")
        elif answer == "reset":
            writer.transport.abort()
        else:
            more = {"Content-Length": "0", **self.headers}
            if isinstance(answer, str):
                more["Location"], answer = answer, 302
            lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
            writer.write(f"HTTP/1.1 {answer} Whatever\r\n{lines}\r\n".encode())
        with suppress(ConnectionError):
            await writer.drain()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


async def eventually(check: Callable[[], Any]) -> Any:
    """Wait until an async check gives something true; return that. For what only a database shows."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await check()):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
        return found
