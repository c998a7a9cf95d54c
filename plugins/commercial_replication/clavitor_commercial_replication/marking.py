"""What a write costs a primary: in its transaction the entry is marked dirty, queued, and accounted for.

Once for all writes that share a commit, with statements that take them together: their revs are consecutive, since
whoever writes entries has locked the vault's head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_commercial_replication import digests, state, tables
from clavitor_commercial_replication.service import QUEUED
from clavitor_host.api import Change, PointRead, Transaction

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

Note = tuple["Replication", Change]

_STATE = PointRead(
    sa.select(tables.state.c.role, tables.state.c.epoch, tables.state.c.buckets).where(tables.state.c.id == 1)
)
_ACCOUNT = "UPDATE replication_state SET head_rev = :head_rev, buckets = :buckets WHERE id = 1"
_MARK = "UPDATE entries SET replication_dirty = TRUE WHERE rev BETWEEN :first AND :last AND NOT replication_dirty"
_QUEUE = """
INSERT INTO replication_queue (rev, entry_id, method, environment_id, epoch, created_at, queued_at, retry_count, size,
    quarantined_at, error, raw_payload)
SELECT rev, entry_id,
    CASE WHEN deleted_at IS NOT NULL THEN 'delete' WHEN created_at = updated_at THEN 'create' ELSE 'update' END,
    environment_id, :epoch, created_at, updated_at, 0, COALESCE(LENGTH(encrypted_data), 0), NULL, NULL, encrypted_data
FROM entries WHERE rev BETWEEN :first AND :last
ON CONFLICT (entry_id) DO UPDATE SET rev = excluded.rev, method = excluded.method,
    environment_id = excluded.environment_id, epoch = excluded.epoch, created_at = excluded.created_at,
    queued_at = excluded.queued_at, retry_count = 0, size = excluded.size, quarantined_at = NULL, error = NULL,
    raw_payload = excluded.raw_payload
"""
_BOTH = f"WITH marked AS ({_MARK}) {_QUEUE}".replace(":epoch", "CAST(:epoch AS bigint)")
"""PostgreSQL: one round trip."""


def note(service: Replication, tx: Transaction, change: Change) -> None:
    """Have a write of `tx` accounted for when it commits (the hook `entry_changing`)."""
    tx.before_commit(mark, (service, change))


async def mark(tx: Transaction, notes: Sequence[Note]) -> None:
    """Account for the writes of one commit. Raises the 503 of a POP that is no primary."""
    service = notes[0][0]
    row = await tx.point_read(_STATE)
    assert row is not None
    role, epoch, buckets = row
    if role != "primary":
        from clavitor_commercial_replication.guard import read_only_problem

        raise read_only_problem(service, await state.required(tx))
    changes = [change for _, change in notes]
    first, last = changes[0].rev, changes[-1].rev
    await _count(tx, changes, epoch, buckets)
    revs = {"first": first, "last": last}
    if tx.dialect == "postgresql":
        await tx.execute(_BOTH, {**revs, "epoch": epoch})
    else:
        await tx.execute(_MARK, revs)
        await tx.execute(_QUEUE, {**revs, "epoch": epoch})
    await service.host.signals.send(tx, QUEUED)


async def _count(tx: Transaction, changes: Sequence[Change], epoch: int, buckets: bytes) -> None:
    """Bring the versions, the hashes and the head up to date."""
    final = {change.entry_id: change for change in changes}
    known = await tx.fetch_by_keys(tables.versions, ("entry_id", "digest"), "entry_id", list(final))
    moved = [(row["entry_id"], row["digest"]) for row in known]
    rows = []
    for entry_id, change in final.items():
        digest = digests.digest_of(entry_id, epoch, change.rev, change.encrypted_data)
        moved.append((entry_id, digest))
        rows.append({"entry_id": entry_id, "epoch": epoch, "rev": change.rev, "digest": digest})
    await tx.insert_many(tables.versions, rows, upsert_on=("entry_id",), update=("epoch", "rev", "digest"))
    values = {"head_rev": changes[-1].rev, "buckets": digests.combined(buckets, moved)}
    await tx.execute(_ACCOUNT, values)
