"""What `clavitor status` and `/api/v1/status` show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_host.audit.tables import audit_head
from clavitor_host.vault import reading

if TYPE_CHECKING:
    from clavitor_host.host import Host


async def report(host: Host) -> dict[str, Any]:
    """Return the host's own facts, and under each plugin's name what it reports of itself."""
    vault = await reading.head(host.db)
    audit = await host.db.fetch_one(sa.select(audit_head.c.audit_id, audit_head.c.hash))
    now = host.clock.now_us()
    plugins = {
        record.name: dict(reported)
        for record, reported in await host.hooks.contributions_async("status_report", host=host)
    }
    return {
        "version": host.version,
        "edition": host.edition.name,
        "database": host.db.dialect,
        "uptime_seconds": (now - host.started_at) // 1_000_000 if host.started_at else None,
        "entries": vault["live_entries"],
        "rev": vault["rev"],
        "audit": {"head_id": audit["audit_id"], "head_hash": audit["hash"]} if audit else None,
        "plugins": plugins,
    }
