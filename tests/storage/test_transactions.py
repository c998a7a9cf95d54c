"""Transactions: one answer for SQLite and PostgreSQL, and every trap of `databases` 0.9.0 closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.errors import StorageUnavailable
from clavitor_host.storage.database import Database
from clavitor_host.storage.errors import IntegrityError, TransactionFailed, UniqueViolation

COUNT = "SELECT count(*) AS n FROM things"


async def test_a_transaction_commits(database: Database, things: sa.Table) -> None:
    async with database.transaction() as tx:
        assert await tx.execute(sa.insert(things).values(key="a")) == 1
        assert await tx.fetch_val(COUNT) == 1
    assert await database.fetch_val(COUNT) == 1


async def test_an_exception_rolls_back(database: Database, things: sa.Table) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="a"))
            raise ZeroDivisionError
    assert await database.fetch_val(COUNT) == 0


async def test_read_then_write_never_fails_with_locked(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(key="counter", number=0))

    async def increment() -> None:
        async with database.transaction() as tx:
            await tx.lock("counter")
            number = await tx.fetch_val("SELECT number FROM things WHERE key = 'counter'")
            await asyncio.sleep(0)
            await tx.execute("UPDATE things SET number = :n WHERE key = 'counter'", {"n": number + 1})

    await asyncio.gather(*[increment() for _ in range(30)])
    assert await database.fetch_val("SELECT number FROM things") == 30


async def test_a_second_database_of_the_same_file_or_server_waits(database: Database, things: sa.Table) -> None:
    other = Database(database.url)
    await other.open()
    await database.execute(sa.insert(things).values(key="counter", number=0))

    async def increment(db: Database) -> None:
        async with db.transaction() as tx:
            await tx.lock("counter")
            number = await tx.fetch_val("SELECT number FROM things WHERE key = 'counter'")
            await asyncio.sleep(0.001)
            await tx.execute("UPDATE things SET number = :n WHERE key = 'counter'", {"n": number + 1})

    try:
        await asyncio.gather(*[increment(db) for _ in range(15) for db in (database, other)])
    finally:
        await other.close()
    assert await database.fetch_val("SELECT number FROM things") == 30


async def test_a_cap_holds_under_concurrency(database: Database, things: sa.Table) -> None:
    async def create(number: int) -> None:
        async with database.transaction() as tx:
            await tx.lock("cap")
            if await tx.fetch_val(COUNT) < 10:
                await asyncio.sleep(0)
                await tx.execute(sa.insert(things).values(key=str(number)))

    await asyncio.gather(*[create(number) for number in range(40)])
    assert await database.fetch_val(COUNT) == 10


async def test_a_child_task_sees_the_parents_transaction(database: Database, things: sa.Table) -> None:
    async with database.transaction() as tx:
        await tx.execute(sa.insert(things).values(key="a"))
        assert await asyncio.create_task(database.fetch_val(COUNT)) == 1
        assert await asyncio.gather(*[database.fetch_one(COUNT) for _ in range(5)]) == [{"n": 1}] * 5


async def test_parents_on_every_slot_can_await_their_children(database: Database) -> None:
    ready = asyncio.Barrier(5) if database.dialect == "postgresql" else None

    async def parent() -> int:
        async with database.transaction():
            if ready is not None:
                await ready.wait()
            result: int = await asyncio.create_task(database.fetch_val(COUNT))
            return result

    async with asyncio.timeout(10):
        assert await asyncio.gather(*[parent() for _ in range(5)]) == [0] * 5


async def test_another_task_does_not_see_an_open_transaction(database: Database, things: sa.Table) -> None:
    opened, checked = asyncio.Event(), asyncio.Event()

    async def writer() -> None:
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="a"))
            opened.set()
            await checked.wait()

    task = asyncio.create_task(writer())
    await opened.wait()
    assert await database.fetch_val(COUNT) == 0
    checked.set()
    await task


async def test_a_nested_transaction_is_a_clear_error(database: Database) -> None:
    async def nested() -> None:
        async with database.transaction():
            pass

    async with database.transaction() as tx:
        with pytest.raises(RuntimeError, match="pass its `tx` on"):
            await nested()
        with pytest.raises(RuntimeError, match=r"tx\.savepoint"):
            await asyncio.create_task(nested())
        assert await tx.fetch_val(COUNT) == 0
    await nested()


async def test_a_task_that_outlives_the_transaction_can_open_its_own(database: Database, things: sa.Table) -> None:
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="later"))

    async with database.transaction():
        task = asyncio.create_task(later())
    over.set()
    await task
    assert await database.fetch_val(COUNT) == 1


async def test_a_failed_statement_condemns_the_transaction(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(key="a"))
    with pytest.raises(TransactionFailed):
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="b"))
            with pytest.raises(UniqueViolation):
                await tx.execute(sa.insert(things).values(key="a"))
            with pytest.raises(TransactionFailed, match="savepoint"):
                await tx.fetch_val(COUNT)
    assert await database.fetch_val(COUNT) == 1


async def test_a_savepoint_undoes_its_part(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(key="a"))
    ran: list[str] = []
    async with database.transaction() as tx:
        await tx.execute(sa.insert(things).values(key="b"))
        with pytest.raises(UniqueViolation):
            async with tx.savepoint():
                tx.defer(things, {"key": "deferred"})
                tx.after_commit(lambda: ran.append("inner"))
                await tx.execute(sa.insert(things).values(key="c"))
                await tx.execute(sa.insert(things).values(key="a"))
        async with tx.savepoint():
            await tx.execute(sa.insert(things).values(key="d"))
        tx.after_commit(lambda: ran.append("outer"))
    rows = await database.fetch_all("SELECT key FROM things ORDER BY key")
    assert [row["key"] for row in rows] == ["a", "b", "d"]
    assert ran == ["outer"]


async def test_constraints_are_recognisable(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(id=1, key="a"))
    with pytest.raises(UniqueViolation) as unique:
        await database.execute(sa.insert(things).values(key="a"))
    assert "key" in unique.value.constraint
    with pytest.raises(UniqueViolation):
        await database.execute(sa.insert(things).values(id=1, key="b"))
    with pytest.raises(IntegrityError) as null:
        await database.execute("INSERT INTO things (key) VALUES (NULL)")
    assert not isinstance(null.value, UniqueViolation)
    with pytest.raises(IntegrityError):
        await database.execute(sa.insert(things).values(key="b", parent=99))


async def test_a_program_error_is_not_an_outage(database: Database) -> None:
    with pytest.raises(Exception, match="nowhere") as raised:
        await database.fetch_all("SELECT * FROM nowhere")
    assert not isinstance(raised.value, StorageUnavailable)
    with pytest.raises(ValueError, match="takes"):
        await database.fetch_all("SELECT * FROM things WHERE key = :key", {"kye": "a"})
    if database.dialect == "postgresql":
        with pytest.raises(Exception, match="str") as raised:
            await database.fetch_all("SELECT * FROM things WHERE number = :n", {"n": "text"})
        assert not isinstance(raised.value, StorageUnavailable)


async def test_after_commit_runs_only_after_a_commit(database: Database, things: sa.Table) -> None:
    ran: list[Any] = []

    async def count() -> None:
        ran.append(await database.fetch_val(COUNT))
        async with database.transaction() as tx:  # a new one may be opened
            await tx.fetch_val(COUNT)

    def broken() -> None:
        raise ValueError("not the writer's problem")

    async with database.transaction() as tx:
        await tx.execute(sa.insert(things).values(key="a"))
        tx.after_commit(broken)
        tx.after_commit(lambda: ran.append("sync"))
        tx.after_commit(count)
        assert ran == []
    assert ran == ["sync", 1]
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            tx.after_commit(lambda: ran.append("never"))
            raise ZeroDivisionError
    assert ran == ["sync", 1]


async def test_after_end_runs_after_a_commit_and_after_a_rollback_outside_the_transaction(
    database: Database, things: sa.Table
) -> None:
    async def note(key: str) -> None:
        assert database.current() is None
        async with database.transaction() as tx:  # on SQLite it would wait for the other one for ever
            await tx.execute(sa.insert(things).values(key=key))

    async with database.transaction() as tx:
        tx.after_end(lambda: note("committed"))
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint():
                tx.after_end(lambda: note("savepoint"))
                raise ZeroDivisionError
        assert await tx.fetch_val(COUNT) == 0
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="never"))
            tx.after_end(lambda: note("rolled back"))
            raise ZeroDivisionError
    rows = await database.fetch_all("SELECT key FROM things ORDER BY key")
    assert [row["key"] for row in rows] == ["committed", "rolled back", "savepoint"]


async def test_a_deferred_row_that_fails_rolls_everything_back(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(key="a"))
    with pytest.raises(UniqueViolation):
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key="b"))
            tx.defer(things, {"key": "a"})
    assert await database.fetch_val(COUNT) == 1


async def test_many_failed_transactions_leak_no_connection(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(key="a"))
    for _ in range(12):
        with pytest.raises(UniqueViolation):
            async with database.transaction() as tx:
                tx.defer(things, {"key": "a"})
        with pytest.raises(UniqueViolation):
            await database.execute(sa.insert(things).values(key="a"))
    async with asyncio.timeout(5):
        await asyncio.gather(*[database.fetch_val(COUNT) for _ in range(10)])
        await database.execute(sa.insert(things).values(key="b"))
