"""Statements: the same values in and out on either database, compiled once, and set-wise where there are many."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.storage.database import Database, PointRead
from clavitor_host.storage.errors import UniqueViolation

VALUES: dict[str, Any] = {
    "key": "ä \u0001 ' \" ; -- %s %(x)s :y ?",
    "number": 2**62,
    "payload": {"list": [1, None, True, "é"], "nested": {"a": 1.5}},
    "flag": True,
    "data": bytes(range(256)),
}


async def test_values_come_back_as_they_went_in(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(**VALUES))
    async with database.transaction() as tx:
        await tx.insert_many(things, [{**VALUES, "key": "second"}])
        tx.defer(things, {**VALUES, "key": "third"})
    for key in (VALUES["key"], "second", "third"):
        row = await database.fetch_one(sa.select(things).where(things.c.key == key))
        assert row is not None
        assert {name: row[name] for name in VALUES} == {**VALUES, "key": key}
        assert type(row["flag"]) is bool
    async with database.transaction() as tx:
        rows = await tx.fetch_by_keys(things, list(VALUES), "key", [VALUES["key"], "second", "absent"])
    assert sorted(row["key"] for row in rows) == sorted([VALUES["key"], "second"])
    assert all(row["payload"] == VALUES["payload"] and row["data"] == VALUES["data"] for row in rows)


async def test_column_values_may_be_passed_beside_the_statement(database: Database, things: sa.Table) -> None:
    assert await database.execute(sa.insert(things), {"key": "a", "payload": [1], "data": b"x"}) == 1
    changed = sa.update(things).where(things.c.key == sa.bindparam("which"))
    assert await database.execute(changed, {"which": "a", "payload": {"b": 2}}) == 1
    assert await database.execute(changed, {"which": "nobody", "payload": None}) == 0
    row = await database.fetch_one("SELECT * FROM things WHERE key = :key AND key = :key", {"key": "a"})
    assert row is not None and row["data"] == b"x"
    assert await database.fetch_val(sa.select(things.c.payload)) == {"b": 2}


async def test_python_side_defaults_are_applied(database: Database, things: sa.Table) -> None:
    await database.execute(sa.insert(things).values(key="a"))
    assert await database.fetch_val(sa.select(things.c.flag)) is False


async def test_in_lists_of_any_length_share_one_compiled_form(database: Database, things: sa.Table) -> None:
    async with database.transaction() as tx:
        await tx.insert_many(things, [{"key": str(number), "number": number} for number in range(50)])
    for length in (0, 1, 2, 50):
        keys = [str(number) for number in range(length)]
        query = sa.select(things.c.number).where(things.c.key.in_(keys), things.c.number >= 0)
        assert len(await database.fetch_all(query)) == length


async def test_a_cached_form_takes_each_calls_own_values(database: Database, things: sa.Table) -> None:
    for number in range(5):
        await database.execute(sa.insert(things).values(key=str(number), number=number * 10))
    for number in range(5):
        query = sa.select(things.c.number).where(things.c.key == str(number)).limit(number + 1)
        assert await database.fetch_val(query) == number * 10
    cached = len(database.engine.compiler._compiled)
    await database.fetch_val(sa.select(things.c.number).where(things.c.key == "9").limit(1))
    assert len(database.engine.compiler._compiled) == cached


async def test_returning_comes_back(database: Database, things: sa.Table) -> None:
    first = await database.fetch_val(sa.insert(things).values(key="a").returning(things.c.id))
    async with database.transaction() as tx:
        second = await tx.fetch_val(sa.insert(things).values(key="b").returning(things.c.id))
    assert (await database.fetch_val("SELECT count(*) FROM things"), second) == (2, first + 1)


async def test_affected_rows_are_counted(database: Database, things: sa.Table) -> None:
    async with database.transaction() as tx:
        await tx.insert_many(things, [{"key": str(number)} for number in range(7)])
        assert await tx.execute(sa.update(things).values(number=1)) == 7
        assert await tx.execute("DELETE FROM things WHERE key IN ('1', '2', 'x')") == 2
        assert await tx.fetch_one("SELECT * FROM things WHERE key = 'x'") is None
        assert await tx.fetch_val("SELECT number FROM things WHERE key = 'x'") is None


async def test_insert_many_refuses_duplicates_and_writes_none(database: Database, things: sa.Table) -> None:
    with pytest.raises(UniqueViolation):
        async with database.transaction() as tx:
            await tx.insert_many(things, [{"key": "a"}, {"key": "a"}])
    assert await database.fetch_val("SELECT count(*) FROM things") == 0


async def test_upserts_read_as_if_written_one_after_the_other(database: Database, things: sa.Table) -> None:
    async with database.transaction() as tx:
        await tx.insert_many(things, [{"key": "a", "number": 1, "flag": True}])
        rows = [{"key": "a", "number": 2, "flag": False}, {"key": "a", "number": 3, "flag": False}]
        rows += [{"key": "b", "number": 4, "flag": True}, {"key": "b", "number": 5, "flag": False}]
        await tx.insert_many(things, rows, upsert_on=["key"], update=["number"])
        await tx.insert_many(things, [{"key": "a", "number": 9}, {"key": "c", "number": 6}], upsert_on=["key"])
        await tx.insert_many(things, [])
    stored = await database.fetch_all("SELECT key, number FROM things ORDER BY key")
    assert [tuple(row.values()) for row in stored] == [("a", 3), ("b", 5), ("c", 6)]
    assert await database.fetch_val(sa.select(things.c.flag).where(things.c.key == "b")) is True


async def test_rows_with_other_columns_are_refused(database: Database, things: sa.Table) -> None:
    with pytest.raises((ValueError, KeyError)):
        async with database.transaction() as tx:
            await tx.insert_many(things, [{"key": "a"}, {"key": "b", "number": 1}])
    with pytest.raises((ValueError, KeyError)):
        async with database.transaction() as tx:
            await tx.insert_many(things, [{"key": "a"}, {"number": 1}])


async def test_keys_may_be_numbers_and_blobs(database: Database, things: sa.Table) -> None:
    async with database.transaction() as tx:
        await tx.insert_many(things, [{"key": str(n), "number": 2**40 + n, "data": bytes([n])} for n in range(9)])
        assert len(await tx.fetch_by_keys(things, ["key"], "number", [2**40, 2**40 + 3, 1])) == 2
        assert [row["key"] for row in await tx.fetch_by_keys(things, ["key"], "data", [b"\x05", b"?"])] == ["5"]
        assert await tx.fetch_by_keys(things, ["key"], "key", []) == []


async def test_point_reads(database: Database, things: sa.Table) -> None:
    by_key = PointRead(
        sa.select(things.c.number, things.c.payload, things.c.flag).where(things.c.key == sa.bindparam("key"))
    )
    mixed = PointRead(
        sa.select(things.c.key)
        .where(things.c.flag == sa.true(), things.c.number > sa.bindparam("low"))
        .where(things.c.number < sa.bindparam("high"), things.c.number != sa.bindparam("low"))
        .order_by(things.c.number)
        .limit(1)
    )
    async with database.transaction() as tx:
        await tx.insert_many(
            things, [{"key": str(n), "number": n, "payload": {"n": n}, "flag": True} for n in range(9)]
        )
        assert await database.point_read(by_key, "3") == (3, {"n": 3}, True)  # reads through the open transaction
    assert await database.point_read(by_key, "4") == (4, {"n": 4}, True)
    assert await database.point_read(by_key, "absent") is None
    assert await database.point_read(mixed, 3, 8) == ("4",)
    assert await database.point_read(mixed, 6, 7) is None


async def test_literal_percent_and_question_marks(database: Database) -> None:
    assert (
        await database.fetch_val("SELECT count(*) AS n FROM things WHERE key LIKE '%?%' AND key <> :k", {"k": "%"}) == 0
    )


async def test_ping(database: Database) -> None:
    await database.ping()


async def test_numbers_have_the_same_python_type(database: Database, things: sa.Table) -> None:
    async with database.transaction() as tx:
        await tx.insert_many(things, [{"key": "a", "number": 2**40}, {"key": "b", "number": 1}])
    total = await database.fetch_val(sa.select(sa.func.sum(things.c.number)))
    assert (total, type(total)) == (2**40 + 1, int)
    assert type(await database.fetch_val(sa.select(sa.func.count()).select_from(things))) is int
    values = sa.select(sa.cast(1.5, sa.Float).label("f"), sa.cast("2.25", sa.Numeric(10, 2)).label("d"))
    assert await database.fetch_one(values) == {"f": 1.5, "d": Decimal("2.25")}
