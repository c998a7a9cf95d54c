"""A clock that the test moves, and a real SQLite database with the tables of jobs and leases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa

from clavitor_host.jobs.runner import JobRunner
from clavitor_host.jobs.tables import job_runs
from clavitor_host.storage.database import Database, sqlite_url
from clavitor_host.storage.leases import LeaseKeeper
from clavitor_host.storage.tables import leases as leases_table
from clavitor_host.storage.tables import metadata


class SteppedClock:
    """Stands still until `advance`. Starts on 2026-01-05 12:00 UTC, a Monday."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start = datetime(2026, 1, 5, 12, tzinfo=UTC)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = count()
        self.database_busy: Callable[[], bool] = lambda: False

    def now_us(self) -> int:
        return round((self.start.timestamp() + self.seconds) * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self.seconds + seconds, next(self._sequence), woken))
        await woken

    @property
    def sleeping(self) -> int:
        """How many tasks wait for the clock."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move on, stopping at every moment that somebody waits for and letting them act."""
        end = self.seconds + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, woken = heappop(self._sleepers)
            if not woken.done():
                self.seconds = max(self.seconds, at)
                woken.set_result(None)
                await self.settle()
        self.seconds = end
        await self.settle()

    async def settle(self) -> None:
        """Let every task run until it waits for the clock or an event. The database takes as long as it takes."""
        quiet = 0
        while quiet < 4:
            await asyncio.sleep(0.002)
            quiet = 0 if self.database_busy() else quiet + 1


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def db(tmp_path: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    file = tmp_path / "vault.db"
    engine = sa.create_engine(f"sqlite:///{file}")
    metadata.create_all(engine, [job_runs, leases_table])
    engine.dispose()
    asked: set[object] = set()
    execute = aiosqlite.Connection._execute

    async def counted(*arguments: Any, **options: Any) -> Any:
        question = object()
        asked.add(question)
        try:
            return await execute(*arguments, **options)  # type: ignore[no-untyped-call]
        finally:
            asked.discard(question)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    clock.database_busy = lambda: bool(asked)
    database = Database(sqlite_url(file))
    await database.open()
    yield database
    await database.close()


MakeRunner = Callable[..., tuple[JobRunner, LeaseKeeper]]


@pytest.fixture
async def process(db: Database, clock: SteppedClock) -> AsyncIterator[MakeRunner]:
    """Return `process(**options) -> (runner, keeper)`: the jobs of one server process on the shared database."""
    made: list[tuple[JobRunner, LeaseKeeper]] = []

    def make(**options: object) -> tuple[JobRunner, LeaseKeeper]:
        keeper = LeaseKeeper(db, clock)
        runner = JobRunner(clock, keeper, db, zone=UTC, **options)  # type: ignore[arg-type]
        made.append((runner, keeper))
        return runner, keeper

    yield make
    for runner, keeper in made:
        await runner.stop()
        await keeper.stop()
