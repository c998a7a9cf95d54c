"""Entries as another vault numbered and dated them: reading them whole, and writing them over what is here.

Nothing is checked, recorded or told here, and no hook runs: whoever places entries decides which, and accounts for it.
What holds for every vault is kept: its head, how many entries live, and where entries have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from clavitor_host.storage.database import Row, Transaction
from clavitor_host.vault.models import EntryCopy, VaultHead
from clavitor_host.vault.tables import entries, entry_departures, vault_head

_HEAD = (
    sa.select(vault_head.c.rev, vault_head.c.updated_at, vault_head.c.live_entries)
    .where(vault_head.c.id == 1)
    .with_for_update()
)
_ADVANCE = (
    sa.update(vault_head)
    .where(vault_head.c.id == 1)
    .values(
        rev=sa.bindparam("new_rev"),
        updated_at=sa.bindparam("new_updated_at"),
        live_entries=sa.bindparam("new_live_entries"),
    )
)
_KNOWN = ("entry_id", "environment_id", "created_at", "deleted_at")
_FIELDS = EntryCopy._fields
_UPDATED = tuple(name for name in _FIELDS if name != "entry_id")
_COLUMNS = tuple(entries.c[name] for name in _FIELDS)
_SIZE = sa.func.coalesce(sa.func.length(entries.c.encrypted_data), 0)


async def lock(tx: Transaction) -> VaultHead:
    """Return the head; no entry is written until `tx` ends, but by `tx` itself."""
    row = await tx.fetch_one(_HEAD)
    assert row is not None
    return VaultHead(row["rev"], row["updated_at"], row["live_entries"])


async def place(tx: Transaction, copies: Sequence[EntryCopy]) -> None:
    """Write entries and tombstones exactly as they are. One copy of an id at most.

    The head then is no lower than any of them. Raises `UniqueViolation` when another entry has one of their revs.
    """
    if not copies:
        return
    head = await lock(tx)
    ids = [copy.entry_id for copy in copies]
    known = {row["entry_id"]: row for row in await tx.fetch_by_keys(entries, _KNOWN, "entry_id", ids)}
    await tx.insert_many(entries, [copy._asdict() for copy in copies], upsert_on=("entry_id",), update=_UPDATED)
    left = [row for copy in copies if (row := _departure(known.get(copy.entry_id), copy)) is not None]
    await _make_way(tx, left)
    await tx.insert_many(
        entry_departures,
        left,
        upsert_on=("environment_id", "entry_id"),
        update=("rev", "created_at", "departed_at"),
    )
    lived = sum(row["deleted_at"] is None for row in known.values())
    await _advance(
        tx,
        VaultHead(
            max(head.rev, *(copy.rev for copy in copies)),
            max(head.updated_at, *(copy.updated_at for copy in copies)),
            head.live_entries - lived + sum(copy.deleted_at is None for copy in copies),
        ),
    )


async def renumber(tx: Transaction, entry_ids: Sequence[str]) -> dict[str, int]:
    """Give entries new revs, above all others; return them by id. What else they are stays."""
    head = await lock(tx)
    revs: dict[str, int] = {}
    for entry_id in entry_ids:
        revs[entry_id] = head.rev + len(revs) + 1
        await tx.execute(sa.update(entries).where(entries.c.entry_id == entry_id).values(rev=revs[entry_id]))
    await _advance(tx, head._replace(rev=head.rev + len(revs)))
    return revs


async def holders(tx: Transaction, revs: Sequence[int]) -> dict[int, str]:
    """Return which entries have these revs: `{rev: entry id}`."""
    return {row["rev"]: row["entry_id"] for row in await tx.fetch_by_keys(entries, ("rev", "entry_id"), "rev", revs)}


async def remove(tx: Transaction, entry_ids: Sequence[str]) -> None:
    """Forget entries and tombstones altogether: readers of the change feed are not told."""
    head = await lock(tx)
    rows = await tx.fetch_by_keys(entries, ("entry_id", "deleted_at"), "entry_id", entry_ids)
    for row in rows:
        await tx.execute(sa.delete(entries).where(entries.c.entry_id == row["entry_id"]))
        await tx.execute(sa.delete(entry_departures).where(entry_departures.c.entry_id == row["entry_id"]))
    lived = sum(row["deleted_at"] is None for row in rows)
    await _advance(tx, head._replace(live_entries=head.live_entries - lived))


async def copies_of(tx: Transaction, entry_ids: Sequence[str]) -> list[EntryCopy]:
    """Return these entries and tombstones, in no particular order; what is not there is left out."""
    return [_copy(row) for row in await tx.fetch_by_keys(entries, _FIELDS, "entry_id", entry_ids)]


async def copies(tx: Transaction, *, after: str, limit: int, max_bytes: int) -> list[EntryCopy]:
    """Return entries and tombstones by id, from the first one behind `after` ("" begins): at most `limit`, of at most
    `max_bytes` of base64 text together; one at least while there is any."""
    sizes = await tx.fetch_all(
        sa.select(entries.c.entry_id, _SIZE.label("size"))
        .where(entries.c.entry_id > after)
        .order_by(entries.c.entry_id)
        .limit(limit)
    )
    total, count = 0, 0
    for row in sizes:
        total += row["size"]
        if count and total > max_bytes:
            break
        count += 1
    if not count:
        return []
    query = (
        sa.select(*_COLUMNS)
        .where(entries.c.entry_id > after, entries.c.entry_id <= sizes[count - 1]["entry_id"])
        .order_by(entries.c.entry_id)
    )
    return [_copy(row) for row in await tx.fetch_all(query)]


def _copy(row: Row) -> EntryCopy:
    return EntryCopy(*(row[name] for name in _FIELDS))


def _departure(known: Mapping[str, Any] | None, copy: EntryCopy) -> dict[str, Any] | None:
    """Return the row that says the entry left its environment, None when it did not."""
    if known is None or known["environment_id"] in (None, copy.environment_id):
        return None
    return {
        "environment_id": known["environment_id"],
        "entry_id": copy.entry_id,
        "rev": copy.rev,
        "created_at": known["created_at"],
        "departed_at": copy.updated_at,
    }


async def _make_way(tx: Transaction, left: Sequence[Mapping[str, Any]]) -> None:
    """Give earlier departures that have one of these revs the rev that their entry has now.

    They are of entries that had the rev when another vault did not know of it yet. Their readers may be told again.
    """
    for row in left:
        taken = (
            entry_departures.c.environment_id == row["environment_id"],
            entry_departures.c.rev == row["rev"],
            entry_departures.c.entry_id != row["entry_id"],
        )
        other = await tx.fetch_one(
            sa.select(entries.c.entry_id, entries.c.rev)
            .join(entry_departures, entry_departures.c.entry_id == entries.c.entry_id)
            .where(*taken)
        )
        if other is not None:
            await tx.execute(sa.update(entry_departures).where(*taken).values(rev=other["rev"]))


async def _advance(tx: Transaction, head: VaultHead) -> None:
    await tx.execute(
        _ADVANCE,
        {"new_rev": head.rev, "new_updated_at": head.updated_at, "new_live_entries": head.live_entries},
    )
