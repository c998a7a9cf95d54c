"""Checking the chain from its first row to its head."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from clavitor_host.audit import chain
from clavitor_host.audit.checkpoint import signature_holds, trusted_keys
from clavitor_host.audit.tables import audit_checkpoints, audit_head, audit_log
from clavitor_host.storage.database import Database

if TYPE_CHECKING:
    from clavitor_host.host import Host

PAGE = 1000
_NEWEST = sa.select(sa.func.max(audit_checkpoints.c.up_to_id))


class VerifyResult(NamedTuple):
    """`ok`, or the id of the first broken row and why. `rows`: how many were checked up to there."""

    ok: bool
    rows: int
    head_id: int
    head_hash: str
    broken_id: int | None = None
    reason: str = ""


Progress = Callable[[int, int], None]


async def verify_host(host: Host, progress: Progress = lambda done, total: None) -> VerifyResult:
    """Check the chain of a host, trusting its own checkpoints and those of `audit.trusted_keys`."""
    trusted = trusted_keys(host.data_dir, host.config.audit.trusted_keys)
    return await verify(host.db, progress, trusted=trusted)


async def verify(
    db: Database, progress: Progress = lambda done, total: None, *, trusted: Collection[str] = ()
) -> VerifyResult:
    """Recompute every hash and link. `progress` is called with rows done and rows in all.

    The head is read first, so that rows written meanwhile do not matter; when retention drops rows meanwhile, it
    begins again. trusted: public keys (base64) whose retention checkpoints count.
    """
    while True:
        before = await db.fetch_val(_NEWEST)
        result = await _verify(db, progress, trusted)
        if result.ok or await db.fetch_val(_NEWEST) == before:
            return result


async def _verify(db: Database, progress: Progress, trusted: Collection[str]) -> VerifyResult:
    head = await db.fetch_one(sa.select(audit_head.c.audit_id, audit_head.c.hash))
    if head is None:
        return VerifyResult(False, 0, 0, "", 0, "the head of the chain is missing")
    head_id, head_hash = head["audit_id"], head["hash"]
    start = await db.fetch_one(sa.select(audit_checkpoints).order_by(audit_checkpoints.c.up_to_id.desc()).limit(1))
    last_id, last_hash = (start["up_to_id"], start["up_to_hash"]) if start else (0, chain.GENESIS)
    first_id = last_id

    def broken(row_id: int, reason: str) -> VerifyResult:
        return VerifyResult(False, last_id - first_id, head_id, head_hash, row_id, reason)

    if start is not None and not signature_holds(start, trusted):
        key = start["public_key"]
        return broken(last_id, f"the retention checkpoint is not signed by a trusted key (audit.trusted_keys): {key}")
    while last_id < head_id:
        rows = await db.fetch_all(
            sa.select(audit_log)
            .where(audit_log.c.id > last_id, audit_log.c.id <= head_id)
            .order_by(audit_log.c.id)
            .limit(PAGE)
        )
        if not rows:
            return broken(last_id + 1, f"the chain is cut short: its head is row {head_id}")
        for row in rows:
            if row["id"] != last_id + 1:
                return broken(last_id + 1, "the row is missing")
            if row["prev_hash"] != last_hash:
                return broken(row["id"], "prev_hash is not the hash of the row before")
            if chain.row_hash(row) != row["hash"]:
                return broken(row["id"], "the content does not match its hash")
            last_id, last_hash = row["id"], row["hash"]
        progress(last_id - first_id, head_id - first_id)
    if last_hash != head_hash:
        return broken(last_id, "the head does not match the last row")
    extra = await db.fetch_val(sa.select(sa.func.min(audit_log.c.id)).where(audit_log.c.id <= first_id))
    if extra is not None:
        return broken(extra, "the row should have been dropped by retention")
    return VerifyResult(True, last_id - first_id, head_id, head_hash)
