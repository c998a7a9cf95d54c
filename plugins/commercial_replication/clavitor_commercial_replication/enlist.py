"""Entries that were written while replication was off: found, accounted for, and queued.

Page after page, each in a transaction of its own, so that it goes on where it was after a crash: what has its version
is not touched again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clavitor_commercial_replication import digests, queue, state, tables
from clavitor_commercial_replication.models import State, Task
from clavitor_host.api import EntryCopy, Transaction

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

PAGE = 500
"""Entries of one transaction."""

PAGE_BYTES = 4 * 1024 * 1024
"""Base64 text of one transaction, at most."""


async def enlist(service: Replication) -> None:
    """Give every entry and tombstone its version; on a primary queue those that had none, or an older one.

    On a backup they belong to no stream (epoch 0), and nothing is queued.
    """
    after = ""
    while True:
        async with service.host.db.transaction() as tx:
            await service.host.vault.lock(tx)
            known = await state.required(tx)
            if known.enlisted:
                return
            page = await service.host.vault.copies(tx, after=after, limit=PAGE, max_bytes=PAGE_BYTES)
            if page:
                await _account(tx, known, page)
                after = page[-1].entry_id
            else:
                await state.update(tx, enlisted=True)


async def _account(tx: Transaction, known: State, page: Sequence[EntryCopy]) -> None:
    ids = [copy.entry_id for copy in page]
    rows = await tx.fetch_by_keys(tables.versions, ("entry_id", "rev", "digest"), "entry_id", ids)
    versions = {row["entry_id"]: row for row in rows}
    epoch = known.epoch if known.role == "primary" else 0
    missing = [copy for copy in page if copy.entry_id not in versions or versions[copy.entry_id]["rev"] != copy.rev]
    if not missing:
        return
    made: list[dict[str, Any]] = [
        {
            "entry_id": copy.entry_id,
            "epoch": epoch,
            "rev": copy.rev,
            "digest": digests.digest_of(copy.entry_id, epoch, copy.rev, copy.encrypted_data),
        }
        for copy in missing
    ]
    old = [versions[copy.entry_id] for copy in missing if copy.entry_id in versions]
    moved: list[tuple[str, bytes]] = [(str(row["entry_id"]), row["digest"]) for row in (*old, *made)]
    await tx.insert_many(tables.versions, made, upsert_on=("entry_id",), update=("epoch", "rev", "digest"))
    await state.update(tx, buckets=digests.combined(await state.buckets(tx), moved))
    if known.role == "primary":
        await queue.put(tx, [_task(copy, epoch) for copy in missing])


def _task(copy: EntryCopy, epoch: int) -> Task:
    return Task(
        rev=copy.rev,
        entry_id=copy.entry_id,
        method="delete" if copy.deleted_at is not None else "update",
        raw_payload=copy.encrypted_data,
        environment_id=copy.environment_id,
        epoch=epoch,
        created_at=copy.created_at,
        queued_at=copy.updated_at,
        retry_count=0,
    )
