"""LISTEN on PostgreSQL: one connection of its own, since a pooled one comes and goes.

A server that is gone is noticed at once when it closes the connection, and otherwise by the query that is made every
`KEEPALIVE` seconds. A pooler in between must hand out whole sessions: in transaction mode LISTEN hears nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import asyncpg  # type: ignore[import-untyped]

from clavitor_host.storage.errors import unavailable

KEEPALIVE = 10.0
"""Seconds between two questions whether the server is still there."""

KEEPALIVE_TIMEOUT = 5.0
"""Seconds it may take to answer one."""

CLOSE_TIMEOUT = 0.5
"""Seconds it may take to say goodbye."""


async def listen(
    url: str,
    channel: str,
    hear: Callable[[str | None], None],
    wanted: Callable[[], bool],
    *,
    connect_timeout: float,
) -> None:
    """Do what `Engine.listen` promises.

    connect_timeout: in seconds. Raises the driver's errors, and `StorageUnavailable` when the connection is lost.
    """
    connection = await asyncpg.connect(
        url,
        timeout=connect_timeout,
        command_timeout=KEEPALIVE_TIMEOUT,
        server_settings={"application_name": "clavitor signals"},
    )
    try:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(channel, lambda _connection, _pid, _channel, message: hear(message))
        hear(None)
        while wanted():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lost.wait(), KEEPALIVE)
            if lost.is_set():
                raise unavailable("The connection was lost.")
            await connection.execute("SELECT 1")
    finally:
        with contextlib.suppress(Exception):  # it is aborted when it cannot be closed
            await connection.close(timeout=CLOSE_TIMEOUT)
