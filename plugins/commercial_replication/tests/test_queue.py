"""The rows of `replication_queue`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from clavitor_commercial_replication import queue, state, tables
from clavitor_commercial_replication.batches import Batches
from clavitor_commercial_replication.models import Task
from clavitor_commercial_replication.window import Window
from clavitor_commercial_replication_testing.apps import Pop

from clavitor_host.api import Transaction, entries


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sender: the queue stays as the test leaves it."""
    from clavitor_commercial_replication.sender import Sender

    async def idle(self: Sender) -> None:
        await self._host.shutdown.wait()

    monkeypatch.setattr(Sender, "run", idle)


async def ids(pop: Pop, after: int = 0, **options: Any) -> list[str]:
    async with pop.host.db.snapshot() as tx:
        return [task.entry_id for task in (await queue.look(tx, after, **options)).tasks]


async def quarantine(pop: Pop, entry_id: str, rev: int) -> bool:
    async with pop.host.db.transaction() as tx:
        return await queue.quarantine(tx, entry_id, rev, "it says no", 77)


async def clear(pop: Pop, *acks: tuple[str, int]) -> int:
    async with pop.host.db.transaction() as tx:
        return await queue.clear(tx, acks, 123)


async def test_tasks_come_in_rev_order_at_most_so_many(lone_primary: Pop) -> None:
    for name in "dcba":
        await lone_primary.put(name)
    await lone_primary.put("c")
    assert await ids(lone_primary) == ["d", "b", "a", "c"]
    assert await ids(lone_primary, limit=2) == ["d", "b"]
    assert await ids(lone_primary, 1, limit=2) == ["b", "a"]


async def test_a_batch_has_a_bounded_number_of_bytes_and_one_entry_at_least(lone_primary: Pop) -> None:
    for name in "abcd":
        await lone_primary.put(name, b"x" * 300)
    assert await ids(lone_primary, max_bytes=800) == ["a", "b"]
    assert await ids(lone_primary, max_bytes=10) == ["a"]
    assert await ids(lone_primary, max_bytes=1600) == ["a", "b", "c", "d"]


async def test_what_is_on_its_way_is_passed_over(lone_primary: Pop) -> None:
    for name in "abcd":
        await lone_primary.put(name)
    assert await ids(lone_primary, limit=2, skip={"a", "b"}) == ["c", "d"]
    assert await ids(lone_primary, limit=3, skip={"b"}) == ["a", "c"]
    assert await ids(lone_primary, limit=1, skip={"a", "b", "c", "d"}) == []
    found = await queue.look(lone_primary.host.db, limit=3, skip={"b"})
    assert (found.passed, found.more) == (2, True)


async def test_what_the_backup_has_is_left_out_and_tells_nothing(lone_primary: Pop) -> None:
    for name in "abca":
        await lone_primary.put(name)
    found = await queue.look(lone_primary.host.db, skip={"a", "b"}, settled={"b": 2})
    assert ([task.entry_id for task in found.tasks], found.passed, found.settled) == (["c"], 4, 1)
    found = await queue.look(lone_primary.host.db, skip={"a", "b"}, settled={"a": 4, "b": 2})
    assert ([task.entry_id for task in found.tasks], found.passed, found.settled) == (["c"], None, 2)
    assert await ids(lone_primary, limit=1, skip={"b", "c"}, settled={"b": 2, "c": 3}) == ["a"]


async def test_whether_there_is_more_behind_a_batch_is_known(lone_primary: Pop) -> None:
    for name in "abcd":
        await lone_primary.put(name, b"x" * 300)
    found = await queue.look(lone_primary.host.db, limit=2)
    assert (len(found.tasks), found.head_rev, found.more) == (2, 4, True)
    found = await queue.look(lone_primary.host.db, max_bytes=500)
    assert (len(found.tasks), found.head_rev, found.more) == (1, 4, True)
    await quarantine(lone_primary, "d", 4)
    found = await queue.look(lone_primary.host.db, limit=3)
    assert (len(found.tasks), found.head_rev, found.more, found.quarantined) == (3, 4, False, True)
    assert await queue.look(lone_primary.host.db, 4) == queue.Slice([])


async def test_only_the_confirmed_rev_is_cleared(lone_primary: Pop) -> None:
    first = await lone_primary.put("a", b"one")
    second = await lone_primary.put("a", b"two")
    other = await lone_primary.put("b")
    assert await clear(lone_primary, ("a", first.rev), ("b", other.rev), ("never", 9)) == 1
    assert await ids(lone_primary) == ["a"]
    await lone_primary.check()
    assert await clear(lone_primary, ("a", second.rev)) == 1
    assert await clear(lone_primary, ("a", second.rev)) == 0
    rows = await lone_primary.host.db.fetch_all(sa.select(entries.c.replicated_at, entries.c.replication_dirty))
    assert [tuple(row.values()) for row in rows] == [(123, False), (123, False)]
    assert await queue.depth(lone_primary.host.db) == await queue.dirty_count(lone_primary.host.db) == 0
    await lone_primary.check()


async def test_quarantined_entries_are_left_alone_until_they_are_written_again(lone_primary: Pop) -> None:
    first = await lone_primary.put("a")
    await lone_primary.put("b")
    assert await quarantine(lone_primary, "a", first.rev)
    assert await ids(lone_primary) == ["b"]
    assert await queue.depth(lone_primary.host.db) == 2
    await lone_primary.put("a")
    assert await ids(lone_primary) == ["b", "a"]
    assert not await quarantine(lone_primary, "a", first.rev)
    assert await ids(lone_primary) == ["b", "a"]


async def test_quarantined_entries_can_be_requeued(lone_primary: Pop) -> None:
    revs = {name: (await lone_primary.put(name)).rev for name in "abc"}
    for name, rev in revs.items():
        await quarantine(lone_primary, name, rev)
    async with lone_primary.host.db.transaction() as tx:
        assert await queue.requeue(tx, ["b", "never"]) == 1
    assert await ids(lone_primary) == ["b"]
    async with lone_primary.host.db.transaction() as tx:
        assert await queue.requeue(tx, None) == 2
        assert await queue.requeue(tx, None) == 0
    assert await ids(lone_primary) == ["a", "b", "c"]
    row = await lone_primary.host.db.fetch_one(sa.select(tables.queue).where(tables.queue.c.entry_id == "a"))
    assert row is not None and (row["retry_count"], row["error"]) == (0, None)


async def test_a_failed_attempt_is_counted(lone_primary: Pop) -> None:
    await lone_primary.put("a")
    async with lone_primary.host.db.transaction() as tx:
        await queue.retried(tx, (await queue.look(tx, 0)).tasks)
        assert [task.retry_count for task in (await queue.look(tx, 0)).tasks] == [1]


async def test_entries_can_be_queued_again_as_they_are(lone_primary: Pop) -> None:
    change = await lone_primary.put("a", b"one")
    await clear(lone_primary, ("a", change.rev))
    task = Task(change.rev, "a", "update", change.encrypted_data, None, 1, change.created_at, change.updated_at, 0)
    async with lone_primary.host.db.transaction() as tx:
        await queue.put(tx, [task, task])
    assert await ids(lone_primary) == ["a"]
    await lone_primary.check()


async def test_the_oldest_write_that_waits_is_known(lone_primary: Pop) -> None:
    assert await queue.oldest(lone_primary.host.db) is None
    first = await lone_primary.put("a")
    second = await lone_primary.put("b")
    assert await queue.oldest(lone_primary.host.db) == first.updated_at
    await clear(lone_primary, ("a", first.rev))
    assert await queue.oldest(lone_primary.host.db) == second.updated_at


async def test_a_look_does_not_walk_past_what_is_quarantined(lone_primary: Pop) -> None:
    """Neither for what is sent next, nor to learn whether there is any: both are indexed."""
    if lone_primary.host.db.dialect != "sqlite":
        pytest.skip("the plan of a small table says nothing there")
    values = {"after": 0, "limit": 101, "max_bytes": 1000}
    rows = await lone_primary.host.db.fetch_all(f"EXPLAIN QUERY PLAN {queue._SLICE}", values)
    plan = [row["detail"] for row in rows]
    assert any("ix_replication_queue_sendable" in line for line in plan), plan
    assert any("ix_replication_queue_quarantined" in line for line in plan), plan


async def test_a_batch_claims_no_time_at_which_a_write_was_under_way(
    lone_primary: Pop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write has its time before its commit: one that is not in the batch may be older than the batch."""
    first = await lone_primary.put("a")
    committing, go = asyncio.Event(), asyncio.Event()
    commit = Transaction.commit

    async def slow(tx: Transaction) -> None:
        committing.set()
        await go.wait()
        await commit(tx)

    monkeypatch.setattr(Transaction, "commit", slow)
    writing = asyncio.create_task(lone_primary.put("b"))
    await committing.wait()
    service = lone_primary.service
    known = await state.required(lone_primary.host.db)
    window = Window(service.wake)
    found, batch = await Batches(service).next(known, window, max_bytes=queue.MAX_BYTES, resting=())
    go.set()
    second = await writing
    assert [task.entry_id for task in found.tasks] == ["a"]
    assert batch.complete_rev == first.rev
    assert batch.as_of == first.updated_at < second.updated_at
