"""Outbound HTTP: safe defaults, counted, closed (architecture.md)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest

from clavitor_host.metrics import Metrics
from clavitor_host.outbound import Outbound

REPLY = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """A server that answers every request with a redirect."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(REPLY)
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()
    await asyncio.sleep(0)


async def test_redirects_are_not_followed_and_requests_are_counted(server: str) -> None:
    metrics = Metrics()
    outbound = Outbound(metrics)
    async with outbound.client() as client:
        assert (await client.get(server)).status_code == 302
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:1/")
    text = (await metrics.render()).decode()
    assert 'clavitor_outbound_requests_total{host="127.0.0.1",outcome="3xx"} 1.0' in text
    assert 'clavitor_outbound_requests_total{host="127.0.0.1",outcome="error"} 1.0' in text


async def test_proxy_variables_are_never_read(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with Outbound(Metrics()).client(trust_env=True) as client:
        assert (await client.get(server)).status_code == 302


async def test_options_override_defaults_and_close_closes(server: str) -> None:
    outbound = Outbound(Metrics())
    client = outbound.client(timeout=3, base_url=server)
    assert client.timeout == httpx.Timeout(3)
    assert outbound.client().timeout == httpx.Timeout(10)
    await client.get("/")
    await outbound.close()
    assert client.is_closed


def test_httpx_is_imported_late() -> None:
    code = (
        "import sys; from clavitor_host.metrics import Metrics; from clavitor_host.outbound import Outbound\n"
        "Outbound(Metrics()); assert 'httpx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
