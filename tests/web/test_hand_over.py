"""A reply that takes over its connection, from an ordinary route and from the answer where no route matches."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quart import Blueprint

from clavitor_host.api import Host, Plugin, Reply, Request, endpoint, hookimpl
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.serve.limits import BodyLimits
from clavitor_host.serve.server import serve
from clavitor_host.serve.settings import ServeSettings
from clavitor_host.testing import FrozenPlugin, Harness, running_app, settings

LENGTH = {"Content-Length": "5"}
TAKEN: list[socket.socket] = []
STARTED: list[str] = []


async def flown() -> AsyncIterator[bytes]:
    STARTED.append("stream")
    yield b"re"
    yield b"st"


def reply(status: int) -> Reply:
    return Reply(status, b"a", "text/plain", LENGTH, flown(), TAKEN.append)


class Giving(Plugin):
    """Gives connections away."""

    name = "giving"
    version = "1.0.0"

    @hookimpl
    async def not_found_handler(self, request: Request) -> Reply:
        STARTED.append(f"can_hand_over={request.can_hand_over}")
        return reply(405 if request.allowed else 404)

    @hookimpl
    def blueprints(self, host: Host) -> Sequence[Blueprint]:
        blueprint = Blueprint("giving", __name__)

        @endpoint(action=None, summary="Give the connection away.")
        async def give(request: Request) -> Reply:
            return reply(200)

        blueprint.get("/give")(give)
        return [blueprint]


@pytest.fixture
async def harness(vault_url: str, tmp_path: Path, bundle: BundleInfo) -> AsyncIterator[Harness]:
    TAKEN.clear()
    STARTED.clear()
    own = replace(bundle, plugins=(*bundle.plugins, FrozenPlugin("giving", Giving)))
    config = settings(tmp_path / "data", own, {"CLAVITOR_DATABASE_URL": vault_url})
    async with running_app(config, own) as started:
        yield started
    for sock in TAKEN:
        sock.close()


@asynccontextmanager
async def served(harness: Harness) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve the app on a real socket, on this loop, and connect to it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await harness.web(scope, receive, send)
            return
        await receive()  # the harness has started the app already
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    stop, ready = asyncio.Event(), asyncio.Event()
    bounds = ServeSettings()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        limited = BodyLimits(app, lambda method, path: 1000, bounds)
        serving = asyncio.create_task(
            serve(limited, bounds, sockets=[bound], on_shutdown=lambda: None, ready=ready.set, stop=stop)
        )
        await asyncio.wait_for(ready.wait(), 10)
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            stop.set()
            await serving


async def head(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode()


@pytest.mark.parametrize(
    ("request_line", "status"), [("GET /give", 200), ("GET /nowhere", 404), ("PUT /api/v1/me", 405)]
)
async def test_over_plain_http_the_plugin_has_the_socket(harness: Harness, request_line: str, status: int) -> None:
    async with served(harness) as (reader, writer):
        writer.write(f"{request_line} HTTP/1.1\r\nhost: x\r\nx-request-id: of-the-client\r\n\r\n".encode())
        lines = (await head(reader)).split("\r\n")
        assert lines[0].startswith(f"HTTP/1.1 {status} ")
        assert {"content-length: 5", "connection: close", "x-request-id: of-the-client"} <= set(lines)
        assert {"x-content-type-options: nosniff", "x-frame-options: DENY", "content-type: text/plain"} <= set(lines)
        assert await reader.readexactly(1) == b"a"
        (sock,) = TAKEN
        sock.send(b"last")
        sock.close()
        assert await reader.read() == b"last"
        assert "stream" not in STARTED
        assert "can_hand_over=False" not in STARTED
    text = (await harness.host.metrics.render()).decode()
    assert re.search(rf'clavitor_http_requests_total\{{[^}}]*status="{status}"[^}}]*\}} 1\.0', text)


async def test_elsewhere_the_stream_is_sent(harness: Harness) -> None:
    client = await harness.client()
    answer = await client.get("/nowhere")
    assert (answer.status_code, answer.content) == (404, b"arest")
    assert "connection" not in answer.headers
    assert TAKEN == []
    assert STARTED == ["can_hand_over=False", "stream"]


async def test_a_request_that_waits_behind_it_makes_it_a_stream(harness: Harness) -> None:
    async with served(harness) as (reader, writer):
        writer.write(b"GET /give HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        assert "connection: close" in await head(reader)
        assert await reader.read() == b"arest"
    assert TAKEN == []


async def test_a_request_without_a_route_leaves_nothing_in_a_cycle(harness: Harness) -> None:
    """What refers to a reply can count on its end: nothing waits for the collector."""
    import gc

    from quart.wrappers import Response

    client = await harness.client()
    gc.collect()
    of_others = [found for found in gc.get_objects() if type(found) is Response]
    gc.disable()
    try:
        for _ in range(5):
            assert (await client.get("/nowhere")).status_code == 404
        await asyncio.sleep(0)
        left = [found for found in gc.get_objects() if type(found) is Response]
        assert not [found for found in left if not any(found is known for known in of_others)]
    finally:
        gc.enable()
