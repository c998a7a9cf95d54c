"""A cancelled task leaves a usable connection and no half state."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.storage.database import Database

COUNT = "SELECT count(*) AS n FROM things"


async def test_cancelled_between_statements(database: Database, things: sa.Table) -> None:
    reached = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="a"))
            reached.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.execute(sa.insert(things).values(key="b")) == 1
    assert await database.fetch_val(COUNT) == 1


async def test_cancelled_within_the_commit_it_is_carried_through(
    database: Database, things: sa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    committing = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="a"))
            tx.after_commit(lambda: ran.append("after"))
            commit = tx._session.commit

            async def slow() -> None:
                committing.set()
                await asyncio.sleep(0.02)
                await commit()

            monkeypatch.setattr(tx._session, "commit", slow)

    task = asyncio.create_task(work())
    await committing.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # twice, as an impatient server does
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.fetch_val(COUNT) == 1
    assert ran == ["after"]


async def test_cancelled_within_a_statement(database: Database, things: sa.Table) -> None:
    slow = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300000) SELECT count(*) AS n FROM c"
    )

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="a"))
            await tx.fetch_val(slow)

    for _ in range(3):
        task = asyncio.create_task(work())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    for _ in range(6):
        read = asyncio.create_task(database.fetch_val(slow))
        await asyncio.sleep(0.01)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
    assert await database.fetch_val(COUNT) == 0
    assert await asyncio.gather(*[database.fetch_val(COUNT) for _ in range(8)]) == [0] * 8
    assert await database.execute(sa.insert(things).values(key="b")) == 1


async def test_cancelled_anywhere_it_is_all_or_nothing(database: Database, things: sa.Table) -> None:
    """Two rows a transaction; a cancellation at a random moment leaves both or none, and no connection is lost."""
    chance = random.Random(7)

    async def work(number: int) -> None:
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key=f"{number}a"))
            tx.defer(things, {"key": f"{number}b"})

    for round_ in range(60):
        tasks = [asyncio.create_task(work(round_ * 10 + n)) for n in range(7)]
        await asyncio.sleep(chance.random() * 0.006)
        for task in tasks:
            if chance.random() < 0.6:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    keys = {row["key"] for row in await database.fetch_all("SELECT key FROM things")}
    assert {key[:-1] for key in keys if key[-1] == "a"} == {key[:-1] for key in keys if key[-1] == "b"}
    async with asyncio.timeout(5):
        await asyncio.gather(*[work(10_000 + n) for n in range(10)])


async def test_waiting_for_a_connection_can_be_cancelled(database: Database, things: sa.Table) -> None:
    enough = asyncio.Event()

    async def hold() -> None:
        async with database.transaction():
            await enough.wait()

    holders = [asyncio.create_task(hold()) for _ in range(5)]
    await asyncio.sleep(0.05)
    waiter = asyncio.create_task(database.execute(sa.insert(things).values(key="a")))
    await asyncio.sleep(0.02)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    enough.set()
    await asyncio.gather(*holders)
    assert await database.execute(sa.insert(things).values(key="b")) == 1


async def test_cancelled_while_it_begins(database: Database, things: sa.Table) -> None:
    """The server may have begun when the driver does not know it: what comes next on the connection must not care."""
    for delay in range(60):
        for opened in (database.snapshot, database.transaction):

            async def work(opened: Any = opened) -> None:
                async with opened() as tx:
                    await tx.fetch_val(COUNT)

            task = asyncio.create_task(work())
            await asyncio.sleep(delay * 0.00005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            async with database.snapshot() as tx:
                assert await tx.fetch_val(COUNT) == delay
        assert await database.execute(sa.insert(things).values(key=str(delay))) == 1
