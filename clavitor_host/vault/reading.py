"""Reading entries: the point read, pages, and the change feed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from clavitor_host.storage.database import Database, PointRead
from clavitor_host.vault.tables import entries, entry_departures, vault_head

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
_SIZE = sa.func.coalesce(sa.func.length(entries.c.encrypted_data), 0).label("size")
_DEPARTURE = (
    entry_departures.c.entry_id,
    entry_departures.c.rev,
    entry_departures.c.created_at,
    entry_departures.c.departed_at.label("updated_at"),
    entry_departures.c.departed_at.label("deleted_at"),
    entry_departures.c.environment_id,
)
_NO_SIZE = sa.literal_column("0", sa.Integer).label("size")
_HERE = entries.alias("here")
_ELSEWHERE = ~sa.exists().where(
    _HERE.c.entry_id == entry_departures.c.entry_id, _HERE.c.environment_id == entry_departures.c.environment_id
)


class Page(NamedTuple):
    """`last_rev`: the rev the page ends at, None when it is empty. `more`: there are further rows behind it."""

    rows: list[dict[str, Any]]
    last_rev: int | None
    more: bool


async def page(db: Database, *, before: int, limit: int, environment_id: str | None, data: bool) -> Page:
    """Return living entries with a rev below `before`, newest write first."""
    query = _entries(data).where(entries.c.rev < before, entries.c.deleted_at.is_(None))
    if environment_id is not None:
        query = query.where(entries.c.environment_id == environment_id)
    return await _fetch(db, query.order_by(entries.c.rev.desc()).limit(limit + 1), limit, data)


async def changes(db: Database, *, since: int, limit: int, environment_id: str | None, data: bool) -> Page:
    """Return the last change of every entry whose rev is above `since`, in order, tombstones included.

    For a reader of one environment an entry that left it is a tombstone, until it comes back.
    """
    if environment_id is None:
        query: Feed = _entries(data).where(entries.c.rev > since).order_by(entries.c.rev)
    else:
        query = environment_feed(since, (environment_id,), data=data)
    return await _fetch(db, query.limit(limit + 1), limit, data)


Feed = sa.Select[Any] | sa.CompoundSelect[Any]


def environment_feed(since: int, environment_ids: Collection[str], *, data: bool = False) -> sa.CompoundSelect[Any]:
    """Return the select of the last change of every entry in each of these environments, by rev.

    A rev stands there once, or twice when an entry moved from one of them to another: as a tombstone and as an entry.
    data: add the `size` of the blob.
    """
    here = _entries(data).where(entries.c.rev > since, entries.c.environment_id.in_(environment_ids))
    gone = sa.select(*_DEPARTURE, *((_NO_SIZE,) if data else ())).where(
        entry_departures.c.rev > since, entry_departures.c.environment_id.in_(environment_ids), _ELSEWHERE
    )
    both = sa.union_all(here, gone)
    return both.order_by(both.selected_columns.rev)


def newest_feed(since: Mapping[str, int], limit: int) -> sa.CompoundSelect[Any]:
    """Return the select of the last change of every entry in each of these environments above its own rev: of those
    still there and of those that left the newest `limit` each. Every part is read along an index and stops early."""
    parts: list[sa.Select[Any]] = []
    for environment_id, rev in since.items():
        here = _entries(data=False).where(entries.c.environment_id == environment_id, entries.c.rev > rev)
        gone = sa.select(*_DEPARTURE).where(
            entry_departures.c.environment_id == environment_id, entry_departures.c.rev > rev, _ELSEWHERE
        )
        parts.append(here.order_by(entries.c.rev.desc()).limit(limit))
        parts.append(gone.order_by(entry_departures.c.rev.desc()).limit(limit))
    return sa.union_all(*(sa.select(part.subquery()) for part in parts))


async def head(db: Database) -> Mapping[str, Any]:
    """Return the vault's `rev`, `updated_at` and `live_entries`."""
    row = await db.fetch_one(sa.select(vault_head).where(vault_head.c.id == 1))
    assert row is not None
    return row


def _entries(data: bool) -> sa.Select[Any]:
    return sa.select(*_META, *((_SIZE,) if data else ()))


async def _fetch(db: Database, query: Feed, limit: int, data: bool) -> Page:
    rows = await db.fetch_all(query)
    if not data:
        found = [dict(row) for row in rows[:limit]]
        return Page(found, found[-1]["rev"] if found else None, len(rows) > limit)
    fitting = _fitting(rows[:limit])
    living = [row["rev"] for row in fitting if row["deleted_at"] is None]
    blobs = {
        row["rev"]: row["encrypted_data"]
        for row in await db.fetch_all(
            sa.select(entries.c.rev, entries.c.encrypted_data).where(entries.c.rev.in_(living))
        )
    }
    found = []
    for row in fitting:
        lives = row["deleted_at"] is None
        if lives and row["rev"] not in blobs:
            continue  # an entry written again in between has a newer rev, on a page to come
        entry = {name: value for name, value in row.items() if name != "size"}
        found.append({**entry, "encrypted_data": blobs[row["rev"]] if lives else None})
    return Page(found, fitting[-1]["rev"] if fitting else None, len(rows) > len(fitting))


def _fitting(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    total = 0
    for index, row in enumerate(rows):
        total += row["size"]
        if total > PAGE_BYTES and index:
            return rows[:index]
    return rows
