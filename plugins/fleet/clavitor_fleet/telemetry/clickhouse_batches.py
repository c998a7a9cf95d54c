"""Batches of many agents as few inserts of ClickHouse: every insert becomes a part on its disk, and too many small ones
are refused. What arrives while an insert is under way goes with the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from clavitor_fleet.telemetry.store import Origin
from clavitor_host.api import StorageUnavailable

MOST_ROWS: Final = 20_000
"""Rows of one insert; a batch is never divided."""
MOST_BATCHES: Final = 1000
MOST_WAITING: Final = 100_000
"""Rows that wait in memory; more are refused."""

Outcome = Literal["kept", "replayed", "reused"]
"""Of a batch: kept now, kept before, or not kept because another body has its name."""


class Batch(NamedTuple):
    """Rows of one agent. `id`: what their ids begin with. `named`: the agent may send it again."""

    origin: Origin
    id: str
    named: bool
    rows: Sequence[Mapping[str, Any]]


class _Waiting(NamedTuple):
    batch: Batch
    done: asyncio.Future[Outcome]


class Batches:
    """What waits to go into one table. `send` keeps some batches, all or none, and returns what became of
    each."""

    def __init__(self, send: Callable[[Sequence[Batch]], Awaitable[Sequence[Outcome]]]) -> None:
        self._send = send
        self._waiting: deque[_Waiting] = deque()
        self._rows = 0
        self._task: asyncio.Task[None] | None = None

    async def add(self, batch: Batch) -> Outcome:
        """Return once the rows are kept. Raises StorageUnavailable; then they may be sent again under their name."""
        if self._rows + len(batch.rows) > MOST_WAITING:
            raise StorageUnavailable("The telemetry store is busy.", code="telemetry_unavailable")
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(batch, done))
        self._rows += len(batch.rows)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="telemetry insert")
        return await done

    async def stop(self, seconds: float) -> None:
        """Wait until nothing waits any more, at most so long; refuse the rest."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=seconds)
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task])
        self._settle(list(self._waiting), _stopping())
        self._waiting.clear()

    async def _drain(self) -> None:
        while self._waiting:
            group = self._next_group()
            try:
                await self._keep(group)
            except asyncio.CancelledError:
                self._settle(group, _stopping())
                raise

    async def _keep(self, group: Sequence[_Waiting]) -> None:
        """Send a group. One that ClickHouse's library cannot write is sent batch by batch, to fail alone."""
        try:
            outcomes = await self._send([waiting.batch for waiting in group])
        except StorageUnavailable as error:
            self._settle(group, error)
        except Exception as error:  # noqa: BLE001 - it is raised where the rows came from
            if len(group) == 1:
                self._settle(group, error)
            else:
                for waiting in group:
                    await self._keep([waiting])
        else:
            for waiting, outcome in zip(group, outcomes, strict=True):
                self._rows -= len(waiting.batch.rows)
                if not waiting.done.done():  # else whoever sent it has gone
                    waiting.done.set_result(outcome)

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.popleft()]
        rows = len(group[0].batch.rows)
        while self._waiting and len(group) < MOST_BATCHES and rows + len(self._waiting[0].batch.rows) <= MOST_ROWS:
            group.append(self._waiting.popleft())
            rows += len(group[-1].batch.rows)
        return group

    def _settle(self, group: Sequence[_Waiting], error: Exception) -> None:
        for waiting in group:
            self._rows -= len(waiting.batch.rows)
            if not waiting.done.done():
                waiting.done.set_exception(error)


def _stopping() -> StorageUnavailable:
    return StorageUnavailable("The server stops.", code="telemetry_unavailable")
