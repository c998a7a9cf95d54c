"""Reading the audit log: filters, keyset pages, export."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from clavitor_host import strict_json
from clavitor_host.audit.tables import audit_log
from clavitor_host.storage.database import Database

FIELDS = tuple(column.name for column in audit_log.columns)
PAGE = 1000


class AuditFilter(NamedTuple):
    """What to look for; None means any. `since` and `until` in µs since the epoch, `until` exclusive."""

    category: str | None = None
    action: str | None = None
    actor: str | None = None
    entry_id: str | None = None
    since: int | None = None
    until: int | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the filter as SQL conditions."""
        equal = {"category": self.category, "action": self.action, "actor": self.actor, "entry_id": self.entry_id}
        found = [audit_log.c[name] == value for name, value in equal.items() if value is not None]
        if self.since is not None:
            found.append(audit_log.c.at >= self.since)
        if self.until is not None:
            found.append(audit_log.c.at < self.until)
        return found


async def page(db: Database, wanted: AuditFilter, *, before: int | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` rows, newest first, with ids below `before`."""
    query = sa.select(audit_log).where(*wanted.conditions()).order_by(audit_log.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_log.c.id < before)
    return [_public(row) for row in await db.fetch_all(query)]


async def export(db: Database, wanted: AuditFilter, form: Literal["jsonl", "csv"]) -> AsyncIterator[bytes]:
    """Yield the matching rows, oldest first, as JSON Lines or CSV."""
    if form == "csv":
        yield _csv_line(FIELDS)
    last = 0
    while True:
        query = sa.select(audit_log).where(audit_log.c.id > last, *wanted.conditions())
        rows = await db.fetch_all(query.order_by(audit_log.c.id).limit(PAGE))
        if not rows:
            return
        last = rows[-1]["id"]
        if form == "jsonl":
            yield b"".join(strict_json.dumps(_public(row)) + b"\n" for row in rows)
        else:
            yield b"".join(_csv_line([_cell(row[name]) for name in FIELDS]) for row in rows)


def _public(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "payload": strict_json.loads(row["payload"].encode())}


def _cell(value: Any) -> Any:
    """Keep a spreadsheet from running text as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def _csv_line(cells: Any) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().encode()
