"""Entries that were written while replication was off: found, accounted for, and queued.

Page after page, each in a transaction of its own, so that it goes on where it was after a crash: what has its version
is not touched again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_commercial_replication import digests, queue, state, tables
from clavitor_commercial_replication.models import State, Task
from clavitor_host.api import EntryCopy, Transaction, entries

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


async def enlist_again(service: Replication, stream: tuple[int | None, str | None], *, above: int) -> int:
    """On the primary of `stream`, its epoch and id, queue every entry whose rev is above this and that does not wait
    yet; return how many."""
    count = 0
    while True:
        async with service.host.db.transaction() as tx:
            await service.host.vault.lock(tx)
            known = await state.required(tx)
            if known.role != "primary" or (known.epoch, known.stream_id) != stream:
                return count
            ids, above = await _page_above(tx, above)
            if not ids:
                return count
            copies = await service.host.vault.copies_of(tx, await queue.unqueued(tx, ids))
            rows = await tx.fetch_by_keys(tables.versions, ("entry_id", "epoch"), "entry_id", ids)
            epochs = {row["entry_id"]: row["epoch"] for row in rows}
            tasks = [task_of(copy, epochs[copy.entry_id]) for copy in copies if copy.entry_id in epochs]
            if tasks:
                await queue.put(tx, tasks)
            count += len(tasks)


_SIZE = sa.func.coalesce(sa.func.length(entries.c.encrypted_data), 0)


async def _page_above(tx: Transaction, rev: int) -> tuple[list[str], int]:
    """Return the next entries above a rev, of a bounded size, and the rev of the last."""
    rows = await tx.fetch_all(
        sa.select(entries.c.entry_id, entries.c.rev, _SIZE.label("size"))
        .where(entries.c.rev > rev)
        .order_by(entries.c.rev)
        .limit(PAGE)
    )
    ids: list[str] = []
    size = 0
    for row in rows:
        size += row["size"]
        if ids and size > PAGE_BYTES:
            break
        ids.append(row["entry_id"])
        rev = row["rev"]
    return ids, rev


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
        await queue.put(tx, [task_of(copy, epoch) for copy in missing])


def task_of(copy: EntryCopy, epoch: int) -> Task:
    """Return the row of the queue for an entry as it is."""
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
