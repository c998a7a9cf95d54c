"""What plugins may ask of the vault: which entries changed, and whole copies for a vault that is to be its equal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from clavitor_host.storage.database import Database, PointRead, Transaction
from clavitor_host.vault import placing
from clavitor_host.vault.models import EntryChange, EntryChanges, EntryCopy, VaultHead
from clavitor_host.vault.reading import PAGE_BYTES, environment_feed, newest_feed
from clavitor_host.vault.tables import entries, vault_head

COUNTED = 1000
"""Entries that `entries_in` counts at most."""

ENVIRONMENTS = 20
"""Environments that one query of `newest_changes` reads."""

_HEAD_REV = PointRead(sa.select(vault_head.c.rev).where(vault_head.c.id == 1))
_LOCK_HEAD = sa.select(vault_head.c.rev).where(vault_head.c.id == 1).with_for_update()


class VaultView:
    """`host.vault`. Reads see what is committed, or what the open transaction of the task sees."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def head_rev(self) -> int:
        """Return the rev of the last write, 0 when there was none. One point read: cheap enough to poll."""
        row = await self._db.point_read(_HEAD_REV)
        assert row is not None
        rev: int = row[0]
        return rev

    async def changes(self, since: int, environment_ids: Collection[str], *, limit: int = 1000) -> EntryChanges:
        """Return the last change above the rev `since` of every entry in these environments, in rev order.

        One query however many they are. An entry that moved from one of them to another is there twice with one rev:
        deleted for the first, changed for the second; both are on one page, which may have one more than `limit` then.
        """
        if not environment_ids:
            return EntryChanges((), since, False)
        rows = await self._db.fetch_all(environment_feed(since, environment_ids).limit(limit + 2))
        size = min(limit, len(rows))
        if 0 < size < len(rows) and rows[size]["rev"] == rows[size - 1]["rev"]:
            size += 1
        changes = tuple(map(_change_of, rows[:size]))
        return EntryChanges(changes, changes[-1].rev if changes else since, len(rows) > size)

    async def newest_changes(self, since: Mapping[str, int], *, limit: int = 1000) -> dict[str, list[EntryChange]]:
        """Return the newest changes of each environment above its own rev, in rev order and at most `limit` of each.

        For readers that have been away for different times: what one has missed costs no other anything.
        since: `{environment_id: rev}`. One query for every twenty environments.
        """
        found: dict[str, list[EntryChange]] = {environment_id: [] for environment_id in since}
        every = list(since.items())
        for first in range(0, len(every), ENVIRONMENTS):
            for row in await self._db.fetch_all(newest_feed(dict(every[first : first + ENVIRONMENTS]), limit)):
                found[row["environment_id"]].append(_change_of(row))
        return {
            environment_id: sorted(changes, key=lambda change: change.rev)[-limit:]
            for environment_id, changes in found.items()
        }

    async def entries_in(self, tx: Transaction, environment_id: str) -> int:
        """Return how many living entries are in an environment, counted up to `COUNTED`; true until `tx` ends.

        No entry is written meanwhile, by any process, so keep the transaction short. An `entry_changing` hook that
        reads, without a lock of its own, whether the environment is there then never lets an entry into a deleted one.
        """
        await tx.fetch_one(_LOCK_HEAD)
        living = sa.select(entries.c.rev).where(
            entries.c.environment_id == environment_id, entries.c.deleted_at.is_(None)
        )
        counted: int = await tx.fetch_val(sa.select(sa.func.count()).select_from(living.limit(COUNTED).subquery()))
        return counted

    async def lock(self, tx: Transaction) -> VaultHead:
        """Return the head; no entry is written until `tx` ends, by any process, but by `tx` itself.

        Every write of an entry does this first: lock other rows afterwards, or two transactions wait for each other.
        """
        return await placing.lock(tx)

    async def advance(self, tx: Transaction, rev: int) -> None:
        """Give no rev up to `rev` any more: for a vault that takes the place of another, whose last it may not know.
        Nothing happens when the head is that far already."""
        head = await placing.lock(tx)
        if rev > head.rev:
            await tx.execute(sa.update(vault_head).where(vault_head.c.id == 1).values(rev=rev))

    async def copies_of(self, tx: Transaction, entry_ids: Sequence[str]) -> list[EntryCopy]:
        """Return these entries and tombstones whole, in no particular order; what is not there is left out."""
        return await placing.copies_of(tx, entry_ids)

    async def copies(
        self, tx: Transaction, *, after: str = "", limit: int = 1000, max_bytes: int = PAGE_BYTES
    ) -> list[EntryCopy]:
        """Return entries and tombstones whole, in the order of their ids, from the first one behind `after`: at most
        `limit`, of at most `max_bytes` of base64 text together, and one at least while there is any."""
        return await placing.copies(tx, after=after, limit=limit, max_bytes=max_bytes)

    async def place(self, tx: Transaction, copies: Sequence[EntryCopy]) -> None:
        """Write entries and tombstones exactly as another vault numbered and dated them, over what is here.

        Nothing is checked, audited or told, and no hook runs: that is the caller's affair, who has called `lock`. One
        copy of an id at most. Raises `UniqueViolation` when another entry has one of their revs: see `holders`.
        """
        await placing.place(tx, copies)

    async def holders(self, tx: Transaction, revs: Sequence[int]) -> dict[int, str]:
        """Return which entries have these revs: `{rev: entry id}`."""
        return await placing.holders(tx, revs)

    async def renumber(self, tx: Transaction, entry_ids: Sequence[str]) -> dict[str, int]:
        """Give entries new revs above all others, and return them by id. A statement each: for the rare few."""
        return await placing.renumber(tx, entry_ids)

    async def remove(self, tx: Transaction, entry_ids: Sequence[str]) -> None:
        """Forget entries and tombstones altogether; readers of the change feed are not told. Two statements each."""
        await placing.remove(tx, entry_ids)


def _change_of(row: Mapping[str, Any]) -> EntryChange:
    return EntryChange(
        row["entry_id"], row["rev"], row["environment_id"], row["deleted_at"] is not None, row["updated_at"]
    )
