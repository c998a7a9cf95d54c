"""Appending to the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from clavitor_host import strict_json
from clavitor_host.audit import chain
from clavitor_host.audit.models import AuditEntry, AuditEvent
from clavitor_host.audit.tables import audit_head, audit_log
from clavitor_host.clock import Clock
from clavitor_host.storage.database import Database, PointRead, Transaction
from clavitor_host.storage.writer import GroupCommitWriter

_HEAD = sa.select(audit_head.c.audit_id, audit_head.c.hash).where(audit_head.c.id == 1).with_for_update()
_LOOK = PointRead(sa.select(audit_head.c.audit_id, audit_head.c.hash).where(audit_head.c.id == 1))
_ADVANCE = (
    sa.update(audit_head)
    .where(audit_head.c.id == 1)
    .values(audit_id=sa.bindparam("new_id"), hash=sa.bindparam("new_hash"))
)

Recorded = Callable[[AuditEvent], Awaitable[None]]


class AuditLog:
    """Appends rows. `recorded` hears of each after its commit; None when nobody listens."""

    def __init__(self, writer: GroupCommitWriter, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self.recorded: Recorded | None = None

    async def record(self, tx: Transaction, *entries: AuditEntry) -> None:
        """Append `entries` in the caller's transaction. Do this last: it locks the head until the commit."""
        head = await tx.fetch_one(_HEAD)
        assert head is not None
        rows = chain.link(entries, head_id=head["audit_id"], head_hash=head["hash"], at=self._clock.now_us())
        await tx.insert_many(audit_log, rows)
        await tx.execute(_ADVANCE, {"new_id": rows[-1]["id"], "new_hash": rows[-1]["hash"]})
        if self.recorded is not None:
            tx.after_commit(self._announce(self.recorded, rows))

    async def note(self, entry: AuditEntry) -> None:
        """Append one entry that belongs to no other write (a refusal, a login); returns once it is durable."""
        await self._writer.submit(self._append, entry, last=True)

    async def head(self, source: Database | Transaction) -> tuple[int, str]:
        """Return the id and the hash of the last row: whoever keeps them elsewhere sees later that rows are gone."""
        row = await source.point_read(_LOOK)
        assert row is not None
        return row[0], row[1]

    async def _append(self, tx: Transaction, entries: Sequence[AuditEntry]) -> Sequence[None]:
        await self.record(tx, *entries)
        return [None] * len(entries)

    @staticmethod
    def _announce(recorded: Recorded, rows: Sequence[Mapping[str, Any]]) -> Callable[[], Awaitable[None]]:
        async def announce() -> None:
            for row in rows:
                await recorded(event_of(row))

        return announce


def event_of(row: Mapping[str, Any]) -> AuditEvent:
    """Return a stored row as an `AuditEvent`."""
    return AuditEvent(**{**row, "payload": strict_json.loads(row["payload"].encode())})
