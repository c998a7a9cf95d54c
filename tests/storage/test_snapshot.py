"""`Database.snapshot()`: a transaction that only reads, beside writers that it neither waits for nor holds up."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa

from clavitor_host.errors import ClavitorError, StorageUnavailable
from clavitor_host.storage.database import Database

COUNT = "SELECT count(*) AS n FROM things"
HELD = 1.5
"""Seconds for which the writer of a test holds its transaction."""


async def test_it_waits_for_no_writer(database: Database, things: sa.Table) -> None:
    other = Database(database.url)
    await other.open()
    try:
        for writer in (database, other):  # of this process, and as if of another
            writing = asyncio.Event()

            async def hold(db: Database = writer, began: asyncio.Event = writing) -> None:
                async with db.transaction() as tx:
                    await tx.execute(sa.insert(things).values(key=str(time.monotonic())))
                    began.set()
                    await asyncio.sleep(HELD)

            holder = asyncio.create_task(hold())
            await writing.wait()
            before, began = await database.fetch_val(COUNT), time.monotonic()
            async with database.snapshot() as tx:
                assert await tx.fetch_val(COUNT) == before
            assert time.monotonic() - began < HELD / 2
            await holder
    finally:
        await other.close()


async def test_every_query_of_it_sees_the_same_moment(database: Database, things: sa.Table) -> None:
    async def write() -> None:
        await database.execute(sa.insert(things).values(key="b"))

    await database.execute(sa.insert(things).values(key="a"))
    async with database.snapshot() as tx:
        assert await tx.fetch_val(COUNT) == 1
        with pytest.raises(RuntimeError, match="a transaction is open"):
            await database.begin()
        await asyncio.wait_for(_outside(write()), 5)  # nor does it hold a writer up
        assert await tx.fetch_val(COUNT) == 1
        async with tx.savepoint():
            assert await database.fetch_val(COUNT) == 1  # the task's own reads go through it
    assert await database.fetch_val(COUNT) == 2


async def test_it_writes_nothing(database: Database, things: sa.Table) -> None:
    with pytest.raises((ClavitorError, RuntimeError)):
        async with database.snapshot() as tx:
            await tx.execute(sa.insert(things).values(key="a"))
    async with database.snapshot() as tx:
        with pytest.raises((ClavitorError, RuntimeError)):
            await tx.insert_many(things, [{"key": "a"}])
    assert await database.fetch_val(COUNT) == 0


async def test_whatever_happens_the_reader_is_back(database: Database, things: sa.Table) -> None:
    async def endless() -> None:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        async with database.snapshot() as tx:
            await tx.fetch_val(numbers)

    for _ in range(6):  # more than there are connections
        task = asyncio.create_task(endless())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ZeroDivisionError):
            async with database.snapshot() as tx:
                raise ZeroDivisionError
    async with asyncio.timeout(5), database.snapshot() as tx:
        assert await tx.fetch_val(COUNT) == 0


async def test_after_the_close_it_is_unavailable(database: Database) -> None:
    await database.close()
    with pytest.raises(StorageUnavailable):
        async with database.snapshot():
            pass


async def _outside(work: object) -> None:
    from contextvars import Context

    assert asyncio.iscoroutine(work)
    await asyncio.get_running_loop().create_task(work, context=Context())
