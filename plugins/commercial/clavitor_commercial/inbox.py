"""Alerts on their way into the spool.

Whoever raises an alert waits for the database at most `PATIENCE`, and for the network never. While the database
cannot be used alerts wait in memory, bounded, and are written when it is back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from clavitor_commercial.items import Item
from clavitor_host.api import Clock, log

if TYPE_CHECKING:
    from clavitor_commercial.metrics import TelemetryMetrics
    from clavitor_commercial.spool import Spool

BOUND = 1_000
"""Most alerts that wait in memory; beyond it the oldest go."""
PATIENCE = 1.0
"""Seconds a caller waits until its alert is durable; after that it is written behind its back."""
RETRY = 1.0
"""Seconds between two attempts to write while the database cannot be used."""
LAST_CHANCE = 0.5
"""Seconds that writing what is left may take at the end."""
_BATCH = 100


class _Waiting(NamedTuple):
    item: Item
    written: asyncio.Future[None]


class Inbox:
    """The alerts of one process."""

    def __init__(self, spool: Spool, clock: Clock, metrics: TelemetryMetrics) -> None:
        self._spool = spool
        self._clock = clock
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._in_hand: list[_Waiting] = []
        self._stopped = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        """Begin to write, also what came before."""
        self._task = asyncio.create_task(self._run(), name="telemetry inbox")

    async def add(self, item: Item, *, wait: bool) -> None:
        """Take an alert. wait: return when it is in the database, or cannot be for now; never inside a transaction,
        whose end it would wait for."""
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        if self._stopped:
            self._lost(1)
            return
        self._queue.append(waiting)
        self._trim()
        self._wake.set()
        if wait and self._task is not None and not self._failing:
            await asyncio.wait({waiting.written}, timeout=PATIENCE)

    async def stop(self) -> None:
        """Write what is left, within twice `LAST_CHANCE`. What cannot be written, or comes later, only the log has."""
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=LAST_CHANCE)
        if self._queue or self._in_hand:
            rest = asyncio.create_task(self._write_rest(), name="telemetry inbox")
            await asyncio.wait({rest}, timeout=LAST_CHANCE)
            rest.cancel()  # not awaited: a database that hangs holds up nobody
        if left := len(self._queue) + len(self._in_hand):
            self._lost(left)

    async def _write_rest(self) -> None:
        with suppress(Exception):
            while self._queue:
                await self._write()

    def _lost(self, count: int) -> None:
        self._metrics.dropped("alert", "shutdown", count)
        log.error("Alerts could not be kept for sending: only the log has them", dropped=count)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                try:
                    await self._write()
                except Exception as error:  # noqa: BLE001 - the inbox must outlive whatever went wrong
                    if not self._failing:
                        log.warning("Alerts wait in memory: they cannot be written", error=f"{error}")
                    self._fails(True)
                    await self._clock.sleep(RETRY)
                else:
                    self._fails(False)

    async def _write(self) -> None:
        batch = self._in_hand = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
        try:
            await self._spool.put([waiting.item for waiting in batch])
        except BaseException:
            self._queue.extendleft(reversed(batch))
            self._trim()
            raise
        finally:
            self._in_hand = []
        for waiting in batch:
            _done(waiting)

    def _fails(self, failing: bool) -> None:
        self._failing = failing
        if failing:
            for waiting in self._queue:
                _done(waiting)

    def _trim(self) -> None:
        dropped = 0
        while len(self._queue) > BOUND:
            _done(self._queue.popleft())
            dropped += 1
        if dropped:
            self._metrics.dropped("alert", "memory", dropped)
            log.warning("Too many alerts wait in memory: the oldest are only in the log", dropped=dropped)


def _done(waiting: _Waiting) -> None:
    if not waiting.written.done():
        waiting.written.set_result(None)
