"""Reading entries: the point read, pages, and the change feed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from clavitor_host.storage.database import Database, PointRead
from clavitor_host.vault.tables import entries, vault_head

PAGE_BYTES = 8 * 1024 * 1024
"""Blob bytes after which a page with data ends (it always holds one entry at least)."""

READ_ENTRY = PointRead(
    sa.select(
        entries.c.encrypted_data,
        entries.c.rev,
        entries.c.created_at,
        entries.c.updated_at,
        entries.c.environment_id,
    ).where(entries.c.entry_id == sa.bindparam("entry_id"), entries.c.deleted_at.is_(None))
)
"""The hot read: one living entry by its id."""

_META = (
    entries.c.entry_id,
    entries.c.rev,
    entries.c.created_at,
    entries.c.updated_at,
    entries.c.deleted_at,
    entries.c.environment_id,
)


class Page(NamedTuple):
    """`last_rev`: the rev the page ends at, None when it is empty. `more`: there are further rows behind it."""

    rows: list[dict[str, Any]]
    last_rev: int | None
    more: bool


async def page(db: Database, *, before: int, limit: int, environment_id: str | None, data: bool) -> Page:
    """Return living entries with a rev below `before`, newest write first."""
    query = sa.select(*_META).where(entries.c.rev < before, entries.c.deleted_at.is_(None))
    return await _fetch(db, query.order_by(entries.c.rev.desc()), limit, environment_id, data)


async def changes(db: Database, *, since: int, limit: int, environment_id: str | None, data: bool) -> Page:
    """Return the last change of every entry whose rev is above `since`, in order, tombstones included."""
    query = sa.select(*_META).where(entries.c.rev > since)
    return await _fetch(db, query.order_by(entries.c.rev), limit, environment_id, data)


async def head(db: Database) -> Mapping[str, Any]:
    """Return the vault's `rev`, `updated_at` and `live_entries`."""
    row = await db.fetch_one(sa.select(vault_head).where(vault_head.c.id == 1))
    assert row is not None
    return row


async def _fetch(db: Database, query: sa.Select[Any], limit: int, environment_id: str | None, data: bool) -> Page:
    if environment_id is not None:
        query = query.where(entries.c.environment_id == environment_id)
    if not data:
        rows = await db.fetch_all(query.limit(limit + 1))
        found = [dict(row) for row in rows[:limit]]
        return Page(found, found[-1]["rev"] if found else None, len(rows) > limit)
    sized = query.add_columns(sa.func.coalesce(sa.func.length(entries.c.encrypted_data), 0).label("size"))
    rows = await db.fetch_all(sized.limit(limit + 1))
    fitting = _fitting(rows[:limit])
    blobs = {
        row["rev"]: row["encrypted_data"]
        for row in await db.fetch_all(
            sa.select(entries.c.rev, entries.c.encrypted_data).where(entries.c.rev.in_([row["rev"] for row in fitting]))
        )
    }
    found = []
    for row in fitting:
        if row["rev"] in blobs:  # an entry written again in between has a newer rev, on a page to come
            entry = {name: value for name, value in row.items() if name != "size"}
            found.append({**entry, "encrypted_data": blobs[row["rev"]]})
    return Page(found, fitting[-1]["rev"] if fitting else None, len(rows) > len(fitting))


def _fitting(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    total = 0
    for index, row in enumerate(rows):
        total += row["size"]
        if total > PAGE_BYTES and index:
            return rows[:index]
    return rows
