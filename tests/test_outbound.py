"""Outbound HTTP: safe defaults, counted, closed (architecture.md)."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import certifi
import httpx
import pytest

from clavitor_host.metrics import Metrics
from clavitor_host.outbound import Outbound, tls_context
from tests.serve import certificates

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


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[tuple[str, certificates.Pair, ssl.SSLContext]]:
    """A server with a certificate of its own authority: its URL, the authority, its context."""
    authority = certificates.make(tmp_path, "ca")
    pair = certificates.make(tmp_path, "server", authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    yield f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}", authority, context
    listening.close()
    await asyncio.sleep(0)


async def test_a_tls_server_is_trusted_by_its_authority_alone(
    tls_server: tuple[str, certificates.Pair, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority, _ = tls_server
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with Outbound(Metrics()).client() as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    outbound = Outbound(Metrics())
    async with outbound.client() as client:
        assert (await client.get(url)).status_code == 204
        with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
            await client.get(url, extensions={"sni_hostname": "other.example"})
    assert outbound.tls is outbound.tls


async def test_tls_below_1_2_is_refused(
    tls_server: tuple[str, certificates.Pair, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority, context = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    outbound = Outbound(Metrics())
    async with outbound.client() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)
    # Whether the alert or the reset is read first is chance on a socket; between two buffers it is not.
    hello, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        outbound.tls.wrap_bio(answer, hello, server_hostname="localhost").do_handshake()
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        context.wrap_bio(hello, ssl.MemoryBIO(), server_side=True).do_handshake()


def test_the_authorities_need_no_file_of_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_file() -> str:
        raise AssertionError("in a bundle it would be unpacked to a temporary file")

    monkeypatch.setattr(certifi, "where", no_file)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert len(tls_context().get_ca_certs()) > 100
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.make(tmp_path, "ca").certificate))
    assert len(tls_context().get_ca_certs()) == 1  # whoever runs the server has chosen


def test_httpx_is_imported_late() -> None:
    code = (
        "import sys; from clavitor_host.metrics import Metrics; from clavitor_host.outbound import Outbound\n"
        "Outbound(Metrics()); assert not {'httpx', 'ssl', 'certifi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
