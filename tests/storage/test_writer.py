"""Group commit: shared commits, separate answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.errors import Problem, StorageUnavailable, problem
from clavitor_host.storage.database import Database, Transaction
from clavitor_host.storage.errors import UniqueViolation
from clavitor_host.storage.writer import Apply, GroupCommitWriter


class Commits:
    """Counts the transactions of a database."""

    def __init__(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        begin = db.engine.begin

        async def counted(*, batch: bool) -> Any:
            self.count += 1
            return await begin(batch=batch)

        monkeypatch.setattr(db.engine, "begin", counted)


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[GroupCommitWriter]:
    writer = GroupCommitWriter(database)
    await writer.start()
    yield writer
    await writer.stop()


@pytest.fixture
def put(things: sa.Table) -> Apply[str, str]:
    """Store a key; "refused…" is refused by a result, "bad…" by an exception."""

    async def apply(tx: Transaction, keys: Sequence[str]) -> Sequence[str | Exception]:
        results: list[str | Exception] = []
        for key in keys:
            if key.startswith("bad"):
                raise ValueError(key)
            if key.startswith("refused"):
                results.append(problem(409, "conflict", key))
            else:
                tx.defer(things, {"key": key})
                results.append(f"stored {key}")
        return results

    return apply


async def stored(db: Database) -> list[str]:
    return [row["key"] for row in await db.fetch_all("SELECT key FROM things ORDER BY key")]


async def test_concurrent_writes_share_commits(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(database, monkeypatch)
    answers = await asyncio.gather(*[writer.submit(put, f"{n:03}") for n in range(200)])
    assert answers == [f"stored {n:03}" for n in range(200)]
    assert len(await stored(database)) == 200
    assert commits.count == 2  # 128 and 72


async def test_a_patient_write_shares_the_commit_of_the_next_that_is_not(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(database, monkeypatch)
    patient = [asyncio.create_task(writer.submit(put, key, patience=60.0)) for key in ("a", "b")]
    await asyncio.sleep(0.05)
    assert (commits.count, writer.queued) == (0, 2)
    assert await writer.submit(put, "c") == "stored c"
    assert await asyncio.gather(*patient) == ["stored a", "stored b"]
    assert (commits.count, writer.queued) == (1, 0)
    assert await stored(database) == ["a", "b", "c"]


async def test_a_patient_write_without_company_is_committed_when_its_time_is_over(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(database, monkeypatch)
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(
        writer.submit(put, "a", patience=0.1),
        writer.submit(put, "b", patience=60.0),
        writer.submit(put, "c", patience=60.0),
    )
    assert list(answers) == ["stored a", "stored b", "stored c"]
    assert commits.count == 1
    assert asyncio.get_running_loop().time() - began >= 0.09
    assert await writer.submit(put, "d", patience=0.01) == "stored d"  # the timer is set anew
    assert commits.count == 2


async def test_the_order_is_that_of_submitting_whoever_is_patient(database: Database) -> None:
    done: list[str] = []

    async def apply(tx: Transaction, keys: Sequence[str]) -> Sequence[str]:
        done.extend(keys)
        return keys

    writer = GroupCommitWriter(database)
    await writer.start()
    await asyncio.gather(
        writer.submit(apply, "1", patience=60.0),
        writer.submit(apply, "2"),
        writer.submit(apply, "3", patience=60.0),
        writer.submit(apply, "4"),
    )
    await writer.stop()
    assert done == ["1", "2", "3", "4"]


async def test_stop_commits_what_is_patient_at_once(database: Database, put: Apply[str, str]) -> None:
    writer = GroupCommitWriter(database, max_queue=2)
    await writer.start()
    patient = [asyncio.create_task(writer.submit(put, key, patience=60.0)) for key in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(StorageUnavailable):
        await writer.submit(put, "one too many")
    await writer.stop()
    assert await asyncio.gather(*patient) == ["stored a", "stored b"]


async def test_an_answer_means_committed(database: Database, writer: GroupCommitWriter, put: Apply[str, str]) -> None:
    await writer.submit(put, "a")
    other = Database(database.url)
    await other.open()
    try:
        assert await stored(other) == ["a"]
    finally:
        await other.close()


async def test_a_refusal_is_its_callers_alone(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(database, monkeypatch)
    answers = await asyncio.gather(*[writer.submit(put, key) for key in ("a", "refused", "b")], return_exceptions=True)
    assert [type(answer) for answer in answers] == [str, Problem, str]
    assert await stored(database) == ["a", "b"]
    assert commits.count == 1


@pytest.mark.parametrize("bad", ["bad", "taken"])
async def test_one_bad_write_never_fails_its_neighbours(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str], things: sa.Table, bad: str
) -> None:
    await database.execute(sa.insert(things).values(key="taken"))
    answers = await asyncio.gather(*[writer.submit(put, key) for key in ("a", "b", bad, "c")], return_exceptions=True)
    assert answers[:2] + answers[3:] == ["stored a", "stored b", "stored c"]
    assert isinstance(answers[2], ValueError if bad == "bad" else UniqueViolation)
    assert await stored(database) == ["a", "b", "c", "taken"]


async def test_operations_of_several_kinds_are_grouped_in_one_commit(
    database: Database,
    writer: GroupCommitWriter,
    put: Apply[str, str],
    things: sa.Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commits = Commits(database, monkeypatch)
    calls: list[list[int]] = []

    async def numbers(tx: Transaction, ops: Sequence[int]) -> Sequence[int]:
        calls.append(list(ops))
        await tx.insert_many(things, [{"key": f"n{op}", "number": op} for op in ops])
        return [op * 2 for op in ops]

    answers = await asyncio.gather(
        writer.submit(put, "a"), writer.submit(numbers, 1), writer.submit(put, "b"), writer.submit(numbers, 2)
    )
    assert list(answers) == ["stored a", 2, "stored b", 4]
    assert (calls, commits.count) == ([[1, 2]], 1)
    assert await stored(database) == ["a", "b", "n1", "n2"]


async def test_a_wrong_number_of_results_is_an_error_and_writes_nothing(
    database: Database, writer: GroupCommitWriter, things: sa.Table
) -> None:
    async def forgetful(tx: Transaction, ops: Sequence[int]) -> Sequence[int]:
        await tx.insert_many(things, [{"key": f"n{op}"} for op in ops])
        return []

    with pytest.raises(ValueError, match="zip"):
        await writer.submit(forgetful, 1)
    assert await stored(database) == []


async def test_a_cancelled_caller_that_still_waits_is_skipped(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str]
) -> None:
    tasks = [asyncio.create_task(writer.submit(put, key)) for key in ("a", "b", "c")]
    await asyncio.sleep(0)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert await stored(database) == ["a", "c"]


async def test_a_caller_cancelled_while_its_operation_runs_harms_nobody(
    database: Database, writer: GroupCommitWriter, things: sa.Table
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction, keys: Sequence[str]) -> Sequence[str]:
        begun.set()
        await go_on.wait()
        await tx.insert_many(things, [{"key": key} for key in keys])
        return list(keys)

    tasks = [asyncio.create_task(writer.submit(slow, key)) for key in ("a", "b")]
    await begun.wait()
    tasks[0].cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert await tasks[1] == "b"
    assert await stored(database) == ["a", "b"]
    assert await writer.submit(slow, "c") == "c"


async def test_a_full_queue_is_overload(database: Database, put: Apply[str, str]) -> None:
    writer = GroupCommitWriter(database, max_queue=3)
    await writer.start()
    tasks = [asyncio.create_task(writer.submit(put, str(n))) for n in range(5)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[:3] == ["stored 0", "stored 1", "stored 2"]
    for refused in answers[3:]:
        assert isinstance(refused, StorageUnavailable)
        assert refused.code == "overloaded"
    await writer.stop()


async def test_stop_commits_what_waits_and_refuses_what_comes(database: Database, put: Apply[str, str]) -> None:
    writer = GroupCommitWriter(database, max_batch=2)
    await writer.start()
    tasks = [asyncio.create_task(writer.submit(put, str(n))) for n in range(7)]
    await asyncio.sleep(0)
    stopping = asyncio.create_task(writer.stop())
    await asyncio.sleep(0)
    with pytest.raises(StorageUnavailable):
        await writer.submit(put, "late")
    await stopping
    assert len([await task for task in tasks]) == 7
    assert len(await stored(database)) == 7
    await writer.stop()
    await writer.start()
    assert await writer.submit(put, "again") == "stored again"
    await writer.stop()


async def test_submitting_inside_a_transaction_is_refused_at_once(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str]
) -> None:
    async with database.transaction():
        with pytest.raises(RuntimeError, match="wait for itself"):
            await writer.submit(put, "a")
    assert await writer.submit(put, "a") == "stored a"


async def test_reads_of_apply_go_through_its_transaction(
    database: Database, writer: GroupCommitWriter, things: sa.Table
) -> None:
    async def count(tx: Transaction, ops: Sequence[str]) -> Sequence[int]:
        await tx.insert_many(things, [{"key": op} for op in ops])
        number = await database.fetch_val("SELECT count(*) AS n FROM things")
        return [number] * len(ops)

    assert list(await asyncio.gather(writer.submit(count, "a"), writer.submit(count, "b"))) == [2, 2]


async def test_callbacks_run_in_order_after_the_commit_and_hold_up_no_commit(
    database: Database, writer: GroupCommitWriter, things: sa.Table
) -> None:
    ran: list[str] = []
    gate = asyncio.Event()

    async def apply(tx: Transaction, keys: Sequence[str]) -> Sequence[str]:
        for key in keys:
            tx.defer(things, {"key": key})

            async def slow(key: str = key) -> None:
                await gate.wait()
                ran.append(f"slow {key}")

            tx.after_commit(lambda key=key: ran.append(key))  # type: ignore[misc]
            tx.after_commit(slow)
        return list(keys)

    for key in ("a", "b", "c"):
        await writer.submit(apply, key)
    assert ran == ["a", "b", "c"]
    gate.set()
    await writer.stop()
    assert ran == ["a", "b", "c", "slow a", "slow b", "slow c"]


async def test_after_end_runs_once_an_operation_also_when_its_batch_was_taken_apart(
    database: Database, writer: GroupCommitWriter, things: sa.Table
) -> None:
    ran: list[str] = []
    begun = asyncio.Event()

    async def apply(tx: Transaction, keys: Sequence[str]) -> Sequence[str]:
        begun.set()
        for key in keys:
            tx.after_end(lambda key=key: ran.append(key))  # type: ignore[misc]
            if key == "bad":
                raise ValueError(key)
            tx.defer(things, {"key": key})
        return list(keys)

    first = asyncio.create_task(writer.submit(apply, "first"))
    await begun.wait()  # the others queue meanwhile, and share a batch
    results = await asyncio.gather(*[writer.submit(apply, key) for key in ("a", "bad", "b")], return_exceptions=True)
    await first
    assert [type(result).__name__ for result in results] == ["str", "ValueError", "str"]
    await writer.stop()
    assert sorted(ran) == ["a", "b", "bad", "first"]


async def test_large_batches_are_written_whole(database: Database, writer: GroupCommitWriter, things: sa.Table) -> None:
    async def apply(tx: Transaction, keys: Sequence[str]) -> Sequence[str]:
        for key in keys:
            tx.defer(things, {"key": key, "data": key.encode() * 20_000})
        return list(keys)

    await asyncio.gather(*[writer.submit(apply, f"{n:02}") for n in range(40)])
    rows = await database.fetch_all(sa.select(things.c.key, things.c.data))
    assert all(row["data"] == row["key"].encode() * 20_000 for row in rows)
    assert len(rows) == 40


async def test_ordinary_transactions_and_batches_take_turns(
    database: Database, writer: GroupCommitWriter, put: Apply[str, str], things: sa.Table
) -> None:
    async def ordinary(number: int) -> None:
        async with database.transaction() as tx:
            await tx.execute(sa.insert(things).values(key=f"o{number:02}"))
            await asyncio.sleep(0)

    await asyncio.gather(*[ordinary(n) for n in range(20)], *[writer.submit(put, f"w{n:02}") for n in range(20)])
    assert len(await stored(database)) == 40


async def test_what_says_last_is_done_last_whoever_came_first(database: Database) -> None:
    order: list[str] = []

    async def early(tx: Transaction, ops: Sequence[str]) -> Sequence[None]:
        order.append("early")
        return [None] * len(ops)

    async def late(tx: Transaction, ops: Sequence[str]) -> Sequence[None]:
        order.append("late")
        return [None] * len(ops)

    writer = GroupCommitWriter(database)
    await writer.start()
    await asyncio.gather(writer.submit(late, "a", last=True), writer.submit(early, "b"), writer.submit(early, "c"))
    await writer.stop()
    assert order[-1] == "late"
    assert order.count("early") == 1
