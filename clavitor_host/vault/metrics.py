"""Metrics of the vault and of the audit chain, read from the database once a scrape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_host.audit.tables import audit_head
from clavitor_host.vault import reading

if TYPE_CHECKING:
    from clavitor_host.host import Host


def vault_metrics(host: Host) -> None:
    """Create the metrics. The audit head is exported so that a cut-off chain shows from outside."""

    async def entries() -> float:
        return float((await reading.head(host.db))["live_entries"])

    async def rev() -> float:
        return float((await reading.head(host.db))["rev"])

    async def head() -> Mapping[str, Any]:
        row = await host.db.fetch_one(sa.select(audit_head.c.audit_id, audit_head.c.hash))
        assert row is not None
        return row

    async def audit_id() -> float:
        return float((await head())["audit_id"])

    async def audit_hash() -> float:
        return float(int((await head())["hash"][:12], 16))

    host.metrics.on_scrape("clavitor_entries", "Living entries in the vault.", entries)
    host.metrics.on_scrape("clavitor_vault_rev", "The last rev given to a write.", rev)
    host.metrics.on_scrape("clavitor_audit_head_id", "Id of the last audit row.", audit_id)
    host.metrics.on_scrape(
        "clavitor_audit_head_hash", "First 48 bits of the hash of the last audit row, as a number.", audit_hash
    )
