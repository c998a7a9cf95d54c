"""TLS under a connection that exists already."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any


async def start_tls(
    transport: Any,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    *,
    early: Callable[[], bytes],
    handshake_timeout: float,
    shutdown_timeout: float,
) -> Any:
    """Shake hands on an accepted plain `transport`, and return the TLS transport over it.

    `loop.create_server(ssl=…)` would show a connection only after its handshake, so that handshakes could not be
    counted. A loop begins to read as it makes a connection: `early()` returns what came before TLS took over.
    """
    loop = asyncio.get_running_loop()
    starting = loop.create_task(
        loop.start_tls(
            transport,
            protocol,
            context,
            server_side=True,
            ssl_handshake_timeout=handshake_timeout,
            ssl_shutdown_timeout=shutdown_timeout,
        )
    )
    # The task takes the transport over in its first step, and reading is paused until TLS is ready in the loop's next
    # round: a callback scheduled right after that step hands `early` over before anything else is read.
    loop.call_soon(loop.call_soon, _feed, transport, early)
    return await starting


def _feed(transport: Any, early: Callable[[], bytes]) -> None:
    tls = transport.get_protocol()
    if transport.is_closing() or not hasattr(tls, "buffer_updated"):
        return
    data = memoryview(early())
    while data:
        buffer = tls.get_buffer(len(data))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        tls.buffer_updated(size)
        data = data[size:]
