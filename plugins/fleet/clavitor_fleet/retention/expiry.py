"""What is over goes: telemetry and artifacts, in one process of a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from clavitor_fleet.retention.service import APPLIED

if TYPE_CHECKING:
    from clavitor_fleet.telemetry.store import TelemetryStore
    from clavitor_host.api import Clock, Host

INTERVAL: Final = 60.0
"""Seconds between looks for what is over."""
PAUSE: Final = 1.0
"""Least seconds between two: on SQLite whatever another process writes sounds as if retention was applied."""
REST: Final = 0.01
"""Least seconds between two batches; otherwise as long as the batch took, so that others write half of the time."""


async def whenever_due(host: Host, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` now, whenever retention was applied in any process, and when a minute is over. Never returns."""
    due = asyncio.Event()
    unsubscribe = host.signals.subscribe(APPLIED, lambda _: due.set())
    try:
        while True:
            due.clear()
            await work()
            await asyncio.sleep(PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await due.wait()
    finally:
        unsubscribe()


async def expire(store: TelemetryStore, clock: Clock) -> None:
    """Delete every row of telemetry whose time is over now, batch by batch."""
    while True:
        began = clock.monotonic()
        if not await store.expire():
            return
        await clock.sleep(max(REST, clock.monotonic() - began))
