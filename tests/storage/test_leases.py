"""Leases: one holder at a time, taken over at once or when its time is over, fenced by a growing token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.clock import SystemClock
from clavitor_host.storage import leases
from clavitor_host.storage.database import Database
from clavitor_host.storage.errors import LeaseLost
from clavitor_host.storage.leases import LeaseKeeper
from clavitor_host.storage.shield import uninterrupted
from clavitor_host.storage.transaction import Transaction

TTL = 0.6
"""Seconds, where a lease is to be lost."""
LONG = 12.0
"""The same where it is to be kept: a busy machine may hold up a renewal for a while."""
PATIENCE = 30.0
Start = Callable[..., Awaitable[LeaseKeeper]]


@pytest.fixture
async def start(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Start one more keeper, as another process would have it."""
    monkeypatch.setattr(leases, "WAITING_INTERVAL", 0.05)
    keepers: list[LeaseKeeper] = []
    databases: list[Database] = []

    async def make(ttl: float = TTL) -> LeaseKeeper:
        db = Database(database.url)
        await db.open()
        databases.append(db)
        keeper = LeaseKeeper(db, SystemClock(), ttl=ttl)
        keepers.append(keeper)
        await keeper.start()
        return keeper

    yield make
    for keeper in keepers:
        await keeper.stop()
    for db in databases:
        await db.close()


def die(keeper: LeaseKeeper) -> None:
    """Stop as a killed process does: nothing is released."""
    for task in keeper._tasks:
        task.cancel()


async def renewed(database: Database, before: int) -> int:
    """Wait until the hold ends later than `before`; return when."""
    async with asyncio.timeout(PATIENCE):
        while (ends := await database.fetch_val("SELECT expires_at FROM leases")) == before:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    return int(ends)


async def test_a_free_lease_is_taken_and_kept(start: Start, database: Database) -> None:
    keeper = await start(ttl=3.0)
    lease = keeper.want("job")
    assert keeper.want("job") is lease
    async with asyncio.timeout(PATIENCE):
        assert await lease.acquired() == 1
    ends = [await renewed(database, 0)]
    for _ in range(3):  # a third of the time each: without the renewals it would be over
        ends.append(await renewed(database, ends[-1]))
    assert ends == sorted(ends)
    assert lease.held.is_set() and not lease.lost.is_set() and lease.token == 1


async def test_only_one_of_many_holds_it(start: Start) -> None:
    wanted = [(await start(LONG)).want("job") for _ in range(4)]
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([asyncio.create_task(w.acquired()) for w in wanted], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(TTL)
    assert sum(lease.held.is_set() for lease in wanted) == 1


async def test_stop_hands_over_at_once_with_a_greater_token(start: Start) -> None:
    first, second = await start(LONG), await start(LONG)
    held = first.want("job")
    await held.acquired()
    waiting = second.want("job")
    await asyncio.sleep(0.1)
    assert not waiting.held.is_set()
    await first.stop()
    assert held.lost.is_set() and not held.held.is_set()
    async with asyncio.timeout(LONG / 2):
        assert await waiting.acquired() == 2


async def test_stop_frees_what_is_just_being_taken(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that has begun is carried through, though nobody waits for what it says."""
    first, second = await start(LONG), await start(LONG)
    committing = asyncio.Event()
    commit = Transaction.commit

    async def slow(tx: Transaction) -> None:
        committing.set()
        await uninterrupted(commit(tx))

    monkeypatch.setattr(Transaction, "commit", slow)
    lease = first.want("job")
    await committing.wait()
    await first.stop()
    assert not lease.held.is_set()
    async with asyncio.timeout(LONG / 2):
        assert await second.want("job").acquired() == 2


async def test_others_can_tell_whether_a_lease_is_held(start: Start, database: Database) -> None:
    clock = SystemClock()
    assert not await leases.is_held(database, clock, "job")
    keeper = await start(LONG)
    await keeper.want("job").acquired()
    assert await leases.is_held(database, clock, "job")
    assert not await leases.is_held(database, clock, "another job")
    await keeper.stop()
    assert not await leases.is_held(database, clock, "job")


async def test_stop_says_nothing_to_a_database_that_was_not_asked(tmp_path: Path) -> None:
    """A start that fails while it migrates stops its keeper too: no table is there yet."""
    db = Database(f"sqlite:///{tmp_path / 'without_tables.db'}")
    await db.open()
    try:
        keeper = LeaseKeeper(db, SystemClock())
        keeper.want("job")
        await keeper.stop()
    finally:
        await db.close()


async def test_a_dead_holder_is_replaced_when_its_time_is_over(start: Start) -> None:
    first, second = await start(), await start()
    began = asyncio.get_running_loop().time()
    await first.want("job").acquired()
    die(first)
    async with asyncio.timeout(PATIENCE):
        assert await second.want("job").acquired() == 2
    assert asyncio.get_running_loop().time() - began > TTL * 0.9


async def test_a_hold_from_before_the_clock_was_set_back_is_none(start: Start, database: Database) -> None:
    """A dead holder does not keep its lease for as long as the clock went back."""
    first, second = await start(), await start()
    await first.want("job").acquired()
    die(first)
    await database.execute("UPDATE leases SET expires_at = expires_at + 7200000000")
    async with asyncio.timeout(PATIENCE):
        assert await second.want("job").acquired() == 2
    assert await database.fetch_val("SELECT holder FROM leases") == second.holder


async def test_a_live_holder_stays_when_the_clock_is_set_back(start: Start, database: Database) -> None:
    keeper = await start(ttl=3.0)
    lease = keeper.want("job")
    await lease.acquired()
    before = await database.fetch_val("SELECT expires_at FROM leases")
    await database.execute("UPDATE leases SET expires_at = expires_at + 7200000000")
    async with asyncio.timeout(PATIENCE):
        while await database.fetch_val("SELECT expires_at FROM leases") > before + 3600000000:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    assert lease.held.is_set() and not lease.lost.is_set() and lease.token == 1


async def test_a_holder_that_cannot_renew_knows_it_before_anyone_takes_over(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await start(), await start()
    held = first.want("job")
    await held.acquired()
    waiting = second.want("job")

    async def hang(**_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(first._db.engine, "begin", hang)
    async with asyncio.timeout(PATIENCE):
        done, _ = await asyncio.wait(
            [asyncio.create_task(held.lost.wait()), asyncio.create_task(waiting.acquired())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert held.lost.is_set() and not waiting.held.is_set() and len(done) == 1
        await waiting.acquired()
    monkeypatch.undo()  # the database answers again: what is stopped frees what it may have taken


async def test_the_fence_stops_an_old_holder(start: Start, database: Database) -> None:
    first, second = await start(), await start()
    lease = first.want("job")
    await lease.acquired()
    async with database.transaction() as tx:
        await lease.check(tx)
    die(first)  # it still believes that it holds the lease
    await second.want("job").acquired()
    async with database.transaction() as tx:
        with pytest.raises(LeaseLost):
            await lease.check(tx)


async def test_a_lease_that_was_taken_away_is_lost(start: Start, database: Database) -> None:
    keeper = await start()
    lease = keeper.want("job")
    await lease.acquired()
    await database.execute("UPDATE leases SET holder = 'thief', token = token + 1")
    async with asyncio.timeout(PATIENCE):
        await lease.lost.wait()
    assert not lease.held.is_set()


async def test_all_leases_of_a_process_cost_one_statement(
    start: Start, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await start(ttl=3.0)
    wanted = [keeper.want(f"job {number}") for number in range(20)]
    for lease in wanted:
        await lease.acquired()
    begun = 0
    begin = keeper._db.engine.begin

    async def count(*, batch: bool) -> Any:
        nonlocal begun
        begun += 1
        return await begin(batch=batch)

    monkeypatch.setattr(keeper._db.engine, "begin", count)
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(PATIENCE):
        while begun < 3:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    assert asyncio.get_running_loop().time() - began > 1.0  # every third of the time, and not for every lease
    assert all(lease.held.is_set() and lease.token == 1 for lease in wanted)


async def test_a_released_lease_is_free_and_no_longer_wanted(start: Start) -> None:
    first, second = await start(LONG), await start(LONG)
    lease = first.want("job")
    await lease.acquired()
    await first.release(lease)
    async with asyncio.timeout(LONG / 2):
        assert await second.want("job").acquired() == 2


async def test_leases_survive_an_outage(start: Start, database: Database, things: sa.Table) -> None:
    keeper = await start()
    lease = keeper.want("job")
    await lease.acquired()
    async with database.transaction() as tx:
        await tx.execute("ALTER TABLE leases RENAME TO elsewhere")
    async with asyncio.timeout(PATIENCE):
        await lease.lost.wait()
    async with database.transaction() as tx:
        await tx.execute("ALTER TABLE elsewhere RENAME TO leases")
    async with asyncio.timeout(PATIENCE):
        assert await lease.acquired() == 2
