"""`RetentionPolicyApplier`: has the telemetry store keep rows for as long as caps and environments say (seed 4.3)."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Final

from clavitor_fleet.environments.service import CHANGED
from clavitor_fleet.retention.service import holds, note_applied, note_failure, policy
from clavitor_host.api import ClavitorError, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_fleet.telemetry.store import TelemetryStore
    from clavitor_host.api import Host

FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 300.0
"""Seconds before what failed is tried again: the first time, and at most."""


class RetentionPolicyApplier:
    """One per app. Applies once at a time in a process; several processes may apply at once, and each goes on until
    what it has applied is what is to hold, so the last to finish has seen the last change.

    A failure is a warning and a count: what was applied before stays, and it is tried again.
    """

    def __init__(self, host: Host, store: TelemetryStore, metrics: FleetMetrics) -> None:
        self._host = host
        self._store = store
        self._metrics = metrics
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._applied = False
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin to apply: now, and whenever environments or caps change."""
        self._unsubscribe = self._host.signals.subscribe(CHANGED, lambda _: self.request())
        self.request()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="retention", context=Context())

    async def stop(self) -> None:
        """Stop. What was asked for and not done is done by the next start."""
        self._unsubscribe()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def request(self) -> None:
        """Have retention applied soon, off the path of whoever asks. Requests that come together are one."""
        self._idle.clear()
        self._wanted.set()

    async def settled(self) -> None:
        """Wait until everything asked for is applied."""
        await self._idle.wait()

    async def apply(self) -> None:
        """Apply what is to hold now: the first time whatever is on record, later when that is something else. Raises
        what the store raises.

        What is to hold is read once more after it was applied: in the meantime another process may have applied
        something newer, which is undone by then.
        """
        retention = (await policy(self._host)).effective
        if self._applied and await holds(self._host, retention):
            return
        applied = None
        while applied != retention:
            await self._store.apply_retention(retention)
            await note_applied(self._host, retention)
            self._applied = True
            self._metrics.retention_applied.inc()
            applied, retention = retention, (await policy(self._host)).effective

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.apply()
            except Exception as error:  # noqa: BLE001 - whatever the store says, the server goes on
                await self._failed(error)
                with suppress(TimeoutError):  # a new request is tried at once
                    async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):  # noqa: S311
                        await self._wanted.wait()
                pause = min(pause * 2, LONGEST_PAUSE)
                self._wanted.set()
            else:
                pause = FIRST_PAUSE
                if not self._wanted.is_set():
                    self._idle.set()

    async def _failed(self, error: Exception) -> None:
        self._metrics.retention_failures.inc()
        reason = (str(error) if isinstance(error, ClavitorError) else repr(error)).partition("\n")[0]
        log.warning("Retention could not be applied; the previous one holds", reason=reason)
        with suppress(ClavitorError):  # the same database may be away
            await note_failure(self._host, reason)
