"""What a write leaves behind on a primary, in its own transaction."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from clavitor_commercial_replication import queue, state, tables
from clavitor_commercial_replication_testing.apps import (
    Pop,
    encoded,
    primary_settings,
    running_pop,
)
from clavitor_commercial_replication_testing.network import Network

from clavitor_host.api import Change, Plugin, Problem, Transaction, Write, entries, hookimpl, problem


async def rows_of(pop: Pop) -> dict[str, dict[str, Any]]:
    return {row["entry_id"]: dict(row) for row in await pop.host.db.fetch_all(sa.select(tables.queue))}


async def test_a_write_is_dirty_queued_and_accounted_for_in_its_own_transaction(lone_primary: Pop) -> None:
    change = await lone_primary.put("a", b"secret", environment_id="prod")
    rows = await rows_of(lone_primary)
    assert rows["a"] | {"epoch": 1} == {
        "rev": change.rev,
        "entry_id": "a",
        "method": "create",
        "environment_id": "prod",
        "epoch": 1,
        "created_at": change.created_at,
        "queued_at": change.updated_at,
        "retry_count": 0,
        "size": len(encoded(b"secret")),
        "quarantined_at": None,
        "error": None,
        "raw_payload": encoded(b"secret"),
    }
    assert (await state.required(lone_primary.host.db)).head_rev == change.rev
    await lone_primary.check()


async def test_a_later_write_takes_the_place_of_an_earlier_one(lone_primary: Pop) -> None:
    first = await lone_primary.put("a", b"one")
    async with lone_primary.host.db.transaction() as tx:
        await queue.quarantine(tx, "a", first.rev, "no", 1)
    second = await lone_primary.put("a", b"two")
    row = (await rows_of(lone_primary))["a"]
    assert (row["rev"], row["method"], row["raw_payload"]) == (second.rev, "update", encoded(b"two"))
    assert (row["retry_count"], row["quarantined_at"], row["error"]) == (0, None, None)
    await lone_primary.check()


async def test_a_create_and_its_delete_are_one_delete(lone_primary: Pop) -> None:
    await lone_primary.write(Write("create", "a", encoded(b"one")), Write("delete", "a"))
    rows = await rows_of(lone_primary)
    assert len(rows) == 1
    assert (rows["a"]["method"], rows["a"]["raw_payload"], rows["a"]["size"]) == ("delete", None, 0)
    await lone_primary.check()


async def test_a_delete_and_a_create_under_the_same_id_are_one_create(lone_primary: Pop) -> None:
    await lone_primary.put("a", b"one")
    await lone_primary.write(Write("delete", "a"), Write("create", "a", encoded(b"two")))
    row = (await rows_of(lone_primary))["a"]
    assert (row["method"], row["raw_payload"]) == ("create", encoded(b"two"))
    await lone_primary.check()


async def test_writes_that_share_a_commit_are_all_accounted_for(lone_primary: Pop) -> None:
    for turn in range(2):
        await asyncio.gather(
            *(lone_primary.put(f"e{number % 120}", b"%d %d" % (turn, number)) for number in range(300))
        )
    await lone_primary.check()
    assert await queue.depth(lone_primary.host.db) == await queue.dirty_count(lone_primary.host.db) == 120


async def test_a_refused_write_leaves_nothing_and_its_neighbours_everything(lone_primary: Pop) -> None:
    await lone_primary.put("a")
    results = await asyncio.gather(
        lone_primary.put("b"),
        lone_primary.put("a", if_none_match=True),
        lone_primary.put("c"),
        return_exceptions=True,
    )
    assert isinstance(results[1], Problem)
    assert set(await rows_of(lone_primary)) == {"a", "b", "c"}
    await lone_primary.check()


class Veto(Plugin):
    """Refuses what is called `forbidden`, after everything else was done."""

    name = "veto"
    version = "1.0"

    @hookimpl
    async def entry_changing(self, tx: Transaction, change: Change) -> None:
        if change.entry_id == "forbidden":
            raise problem(403, "vetoed", "No.")


async def test_a_write_that_another_plugin_refuses_is_not_queued(tmp_path: Path, database_url: str) -> None:
    environ = {**primary_settings(), "CLAVITOR_DATABASE_URL": database_url}
    async with running_pop(tmp_path / "data", environ, Veto, network=Network()) as pop:
        results = await asyncio.gather(
            *(pop.put(name) for name in ("a", "forbidden", "b")),
            return_exceptions=True,
        )
        assert [isinstance(result, Problem) for result in results] == [False, True, False]
        assert set(await rows_of(pop)) == {"a", "b"}
        await pop.check()


@pytest.mark.parametrize("role", ["backup", "fenced"])
async def test_no_write_slips_past_a_change_of_the_role(lone_primary: Pop, role: str) -> None:
    await lone_primary.put("a")
    async with lone_primary.host.db.transaction() as tx:
        await lone_primary.host.vault.lock(tx)
        await state.update(tx, role=role)
    with pytest.raises(Problem) as refused:
        await lone_primary.put("b")
    assert (refused.value.status, refused.value.code) == (503, "read_only")
    assert set(await rows_of(lone_primary)) == {"a"}
    assert set(await lone_primary.entries()) == {"a"}


async def test_queue_and_flags_outlive_the_process(tmp_path: Path, database_url: str) -> None:
    environ = {**primary_settings(), "CLAVITOR_DATABASE_URL": database_url}
    async with running_pop(tmp_path / "data", environ, network=Network()) as pop:
        await pop.put("a", b"one")
        await pop.put("b", b"two")
        before = await rows_of(pop)
    async with running_pop(tmp_path / "data", environ, network=Network()) as pop:
        assert await rows_of(pop) == before
        await pop.check()


async def test_a_commit_costs_the_same_statements_however_many_writes_share_it(
    lone_primary: Pop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_commercial_replication import marking

    counts: list[tuple[int, int]] = []
    mark = marking.mark

    async def counted(tx: Transaction, notes: Any) -> None:
        session = tx._session
        calls = 0

        class Counting:
            def __getattr__(self, name: str) -> Any:
                nonlocal calls
                calls += name in ("fetch", "execute", "insert")
                return getattr(session, name)

        tx._session = Counting()
        await mark(tx, notes)
        tx._session = session
        counts.append((len(notes), calls))

    monkeypatch.setattr(marking, "mark", counted)
    await asyncio.gather(*(lone_primary.put(f"e{number}") for number in range(100)))
    assert max(notes for notes, _ in counts) > 10
    assert max(calls for _, calls in counts) <= 6


async def test_dirty_entries_are_found_by_the_index_that_the_host_has_for_them(lone_primary: Pop) -> None:
    await lone_primary.put("a")
    found = await lone_primary.host.db.fetch_all(sa.select(entries.c.entry_id).where(entries.c.replication_dirty))
    assert [row["entry_id"] for row in found] == ["a"]
