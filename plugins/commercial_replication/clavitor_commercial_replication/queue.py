"""The rows of `replication_queue`: what the backup has not confirmed, one row for each dirty entry.

Whoever changes them has locked the vault's head before. A row and its entry's dirty flag come and go together.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from clavitor_commercial_replication import rules, tables
from clavitor_commercial_replication.models import MAX_ENTRIES, Task
from clavitor_host.api import Database, Transaction

MAX_BYTES = 4 * 1024 * 1024
"""Base64 text of one request, at most, unless a single entry has more."""

_SLICE = """
SELECT queue.rev, queue.entry_id, queue.method, queue.raw_payload, queue.environment_id, queue.epoch, queue.created_at,
    queue.queued_at, queue.retry_count, page.total, head.rev AS head_rev, head.updated_at AS head_at,
    EXISTS (SELECT 1 FROM replication_queue WHERE quarantined_at IS NOT NULL) AS quarantined
FROM (
    SELECT rev, size, SUM(size) OVER (ORDER BY rev) AS total
    FROM (
        SELECT rev, size FROM replication_queue WHERE rev > :after AND quarantined_at IS NULL ORDER BY rev LIMIT :limit
    ) AS next_ones
) AS page JOIN replication_queue AS queue ON queue.rev = page.rev JOIN vault_head AS head ON head.id = 1
WHERE page.total - page.size <= :max_bytes
ORDER BY queue.rev
"""
"""One statement, so that all of it is of one moment; first the fields of `Task`. The first row that no longer fits
comes too: then there are more."""

_WIDTH = len(Task._fields)
_TASK_COLUMNS = ("rev", "entry_id", "method", "environment_id", "epoch", "created_at", "queued_at", "raw_payload")
_REPLACED = (
    "rev", "method", "environment_id", "epoch", "created_at", "queued_at", "raw_payload",
    "size", "retry_count", "quarantined_at", "error",
)  # fmt: skip
_DEPTH = sa.select(sa.func.count()).select_from(tables.queue)
_OLDEST = sa.select(tables.queue.c.queued_at).order_by(tables.queue.c.rev).limit(1)
_NONE: Mapping[str, int] = {}
_REVS = {
    "sqlite": "IN (SELECT value FROM json_each(:revs))",
    "postgresql": "= ANY(CAST(:revs AS bigint[]))",
}


class Slice(NamedTuple):
    """What to send next, at one moment. `tasks`: in rev order. `head_rev`: the vault's then, 0 when there are no tasks;
    `head_at`: when that was written, in µs.

    `passed`: the lowest rev that was left out because its entry is in `skip`; `left_out`: how many were. `more`: there
    are rows behind these; quarantined ones do not count: whether there are any is in `quarantined`. `settled`: how many
    rows were left out because the backup has them.
    """

    tasks: list[Task]
    head_rev: int = 0
    passed: int | None = None
    more: bool = False
    quarantined: bool = False
    left_out: int = 0
    settled: int = 0
    head_at: int = 0


async def look(
    source: Database | Transaction,
    after_rev: int = 0,
    *,
    limit: int = MAX_ENTRIES,
    max_bytes: int = MAX_BYTES,
    skip: Collection[str] = (),
    settled: Mapping[str, int] = _NONE,
) -> Slice:
    """Return what to send next: entries above `after_rev` that are neither quarantined nor in `skip`, at most `limit`
    and of at most `max_bytes` of base64 text, but one at least while there is any.

    settled: revs that the backup has, by entry id; these are left out, and nothing is passed over by that.
    """
    passed: int | None = None
    left_out = known = 0
    while True:
        values = {"after": after_rev, "limit": limit + 1, "max_bytes": max_bytes}
        rows = await source.fetch_all(_SLICE, values)
        tasks: list[Task] = []
        for number, row in enumerate(rows):
            more = number == limit or (number > 0 and row["total"] > max_bytes)
            if more:
                break
            if settled and settled.get(row["entry_id"]) == row["rev"]:
                known += 1
            elif skip and row["entry_id"] in skip:
                passed = passed or row["rev"]
                left_out += 1
            else:
                tasks.append(Task._make(list(row.values())[:_WIDTH]))
        if not rows:
            return Slice(tasks, passed=passed, left_out=left_out, settled=known)
        if tasks or not more:
            quarantined = bool(row["quarantined"])
            return Slice(tasks, row["head_rev"], passed, more, quarantined, left_out, known, row["head_at"])
        after_rev = rows[number - 1]["rev"]


async def put(tx: Transaction, tasks: Sequence[Task]) -> None:
    """Queue entries as they are now, in place of what is queued of them, and mark them dirty. Two statements."""
    await tx.insert_many(tables.queue, [_row(task) for task in tasks], upsert_on=("entry_id",), update=_REPLACED)
    await _on_revs(tx, "UPDATE entries SET replication_dirty = TRUE WHERE rev", [task.rev for task in tasks])


async def clear(tx: Transaction, acks: Collection[tuple[str, int]], at: int) -> int:
    """Forget what the backup has confirmed, `(entry id, rev)`; return how many that were.

    An entry that was written again meanwhile is at another rev and stays. at: when it was confirmed, in µs. Three
    statements however many they are.
    """
    confirmed = dict(acks)
    rows = await tx.fetch_by_keys(tables.queue, ("entry_id", "rev"), "entry_id", list(confirmed))
    revs = [row["rev"] for row in rows if rules.clears(confirmed[row["entry_id"]], row["rev"])]
    clean = "UPDATE entries SET replication_dirty = FALSE, replicated_at = :at WHERE rev"
    await _on_revs(tx, clean, revs, at=at)
    await _on_revs(tx, "DELETE FROM replication_queue WHERE rev", revs)
    return len(revs)


async def retried(tx: Transaction, tasks: Sequence[Task]) -> None:
    """Count one more failed attempt of each."""
    count = "UPDATE replication_queue SET retry_count = retry_count + 1 WHERE rev"
    await _on_revs(tx, count, [task.rev for task in tasks])


async def quarantine(tx: Transaction, entry_id: str, rev: int, error: str, at: int) -> bool:
    """Leave an entry alone until it is written again or requeued; False when it has been written again already."""
    found = sa.and_(tables.queue.c.entry_id == entry_id, tables.queue.c.rev == rev)
    values = {"quarantined_at": at, "error": error, "retry_count": tables.queue.c.retry_count + 1}
    return bool(await tx.execute(sa.update(tables.queue).where(found).values(values)))


async def refused(tx: Transaction, entry_ids: Collection[str]) -> set[str]:
    """Return which of these entries are quarantined."""
    rows = await tx.fetch_by_keys(tables.queue, ("entry_id", "quarantined_at"), "entry_id", list(entry_ids))
    return {row["entry_id"] for row in rows if row["quarantined_at"] is not None}


async def requeue(tx: Transaction, entry_ids: Collection[str] | None) -> int:
    """Have quarantined entries sent again, all of them when none are named; return how many. Send `service.QUEUED`
    in the same transaction, so that the sender hears of it."""
    wanted: sa.ColumnElement[bool] = tables.queue.c.quarantined_at.is_not(None)
    if entry_ids is not None:
        wanted = sa.and_(wanted, tables.queue.c.entry_id.in_(list(entry_ids)))
    values = {"quarantined_at": None, "error": None, "retry_count": 0}
    return await tx.execute(sa.update(tables.queue).where(wanted).values(values))


async def depth(source: Database | Transaction) -> int:
    """Return how many entries wait, quarantined ones too."""
    value: int = await source.fetch_val(_DEPTH)
    return value


async def dirty_count(source: Database | Transaction) -> int:
    """Return how many entries are marked dirty: as many as wait."""
    value: int = await source.fetch_val("SELECT count(*) FROM entries WHERE replication_dirty")
    return value


async def unqueued(tx: Transaction, entry_ids: Sequence[str]) -> list[str]:
    """Return those of these entries that do not wait."""
    rows = await tx.fetch_by_keys(tables.queue, ("entry_id",), "entry_id", entry_ids)
    waiting = {row["entry_id"] for row in rows}
    return [entry_id for entry_id in entry_ids if entry_id not in waiting]


async def oldest(source: Database | Transaction) -> int | None:
    """Return when the oldest write that waits was made, quarantined ones too, in µs; None when nothing waits."""
    value: int | None = await source.fetch_val(_OLDEST)
    return value


async def _on_revs(tx: Transaction, statement: str, revs: Sequence[int], **values: int) -> None:
    if revs:
        given = list(revs) if tx.dialect == "postgresql" else json.dumps(revs)
        await tx.execute(f"{statement} {_REVS[tx.dialect]}", {"revs": given, **values})


def _row(task: Task) -> Mapping[str, object]:
    known = task._asdict()
    return {
        **{name: known[name] for name in _TASK_COLUMNS},
        "size": len(task.raw_payload or ""),
        "retry_count": 0,
        "quarantined_at": None,
        "error": None,
    }
