"""What the telemetry tests share: a receiver that misbehaves on demand, and a commercial app that sends to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clavitor_commercial import lanes
from clavitor_commercial.plugin import plugin
from clavitor_commercial.telemetry import Telemetry

from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.testing import FrozenPlugin, Harness, running_app, settings
from clavitor_host.testing.postgres import PostgresServer, missing

BUNDLE = BundleInfo("clavitor-commercial", "commercial", (FrozenPlugin("clavitor-commercial", plugin),))
TOKEN = "canary-token-7f3a9c"  # planted: it may be in a request's header, and nowhere else
PATIENCE = 20.0


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    text: str


class Receiver:
    """A server for `/v1/alerts` and `/v1/metrics`.

    `answer`: a status, or "hang", "garbage", "reset", "endless" (a 200 whose body never ends); `answer_of` decides by
    request instead. `taken`: what was answered 2xx; `seen`: everything, whatever the answer.
    """

    def __init__(self) -> None:
        self.port = 0
        self.answer: int | str = 200
        self.answer_of: Callable[[Received], int | str] | None = None
        self.headers: dict[str, str] = {}
        self.seen: list[Received] = []
        self.taken: list[Received] = []
        self.connections = 0
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in list(self._writers)), return_exceptions=True)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(true)

    async def wait_seen(self, number: int) -> None:
        await self.until(lambda: len(self.seen) >= number)

    def alerts(self) -> list[dict[str, Any]]:
        return [one.body for one in self.taken if one.path == "/v1/alerts"]

    def reports(self) -> list[dict[str, Any]]:
        return [one.body for one in self.taken if one.path == "/v1/metrics"]

    async def wait_alerts(self, number: int) -> list[dict[str, Any]]:
        await self.until(lambda: len(self.alerts()) >= number)
        return self.alerts()

    async def wait_reports(self, number: int) -> list[dict[str, Any]]:
        await self.until(lambda: len(self.reports()) >= number)
        return self.reports()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        text = (await reader.readexactly(int(headers["content-length"]))).decode()
        request = Received(head[0].split()[1], headers, json.loads(text), text)
        answer = self.answer_of(request) if self.answer_of else self.answer
        async with self._changed:
            self.seen.append(request)
            if answer in (200, 201, 202, 204, "endless"):
                self.taken.append(request)
            self._changed.notify_all()
        match answer:
            case "hang":
                await reader.read()
                return False
            case "reset":
                writer.transport.abort()
                return False
            case "garbage":
                writer.write(("".join(headers.values()) + "\r\n\r\n").encode())  # it even says the token
                await writer.drain()
                return False
            case "endless":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                    await writer.drain()
        extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        writer.write(
            f"HTTP/1.1 {answer} Said {headers.get('authorization')}\r\n{extra}Content-Length: 0\r\n\r\n".encode()
        )
        await writer.drain()
        return True


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


@asynccontextmanager
async def fresh_database(kind: str, folder: Path) -> AsyncIterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/vault.db"
        return
    reason = missing()
    if reason:
        pytest.skip(reason)
    async with PostgresServer.shared().database() as url:
        yield url


def environ_of(receiver: Receiver, url: str | None = None, **more: str) -> dict[str, str]:
    """Return the variables of a server that sends to `receiver`."""
    environ = {
        "CLAVITOR_COMMERCIAL_TELEMETRY_HOST": receiver.url,
        "CLAVITOR_COMMERCIAL_TELEMETRY_TOKEN": TOKEN,
        "CLAVITOR_COMMERCIAL_POP_NAME": "zrh-1",
        "CLAVITOR_COMMERCIAL_POP_REGION": "eu-central",
        **({"CLAVITOR_DATABASE_URL": url} if url else {}),
        **more,
    }
    return environ


@asynccontextmanager
async def commercial(folder: Path, environ: dict[str, str] | None = None) -> AsyncIterator[Harness]:
    """Give a started commercial app."""
    async with running_app(settings(folder / "data", BUNDLE, environ or {}), BUNDLE) as harness:
        yield harness


def telemetry_of(harness: Harness) -> Telemetry:
    found = harness.host.state["commercial"]
    assert isinstance(found, Telemetry)
    return found


async def raise_alerts(harness: Harness, names: list[str]) -> None:
    for name in names:
        await harness.host.edition.alert_operator("test_alert", name, {"name": name})


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make retries and looks quick; what is tested is their order, not their length."""
    monkeypatch.setattr(lanes, "BACKOFF", (0.01, 0.05))
    monkeypatch.setattr(lanes, "POLL", 0.05)


async def metrics_of(harness: Harness) -> str:
    return (await harness.host.metrics.render()).decode()


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a fact of the database: nobody tells when it comes true."""
    async with asyncio.timeout(PATIENCE):
        while not await true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
