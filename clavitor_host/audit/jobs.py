"""The audit log's background work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_host.audit.checkpoint import prune
from clavitor_host.jobs.models import Job, cron

if TYPE_CHECKING:
    from clavitor_host.host import Host


def audit_jobs(host: Host) -> list[Job]:
    """Return the nightly retention, when one is configured."""
    days = host.config.audit.retention_days
    if days is None:
        return []

    async def retain() -> None:
        await prune(host.db, host.audit, data_dir=host.data_dir, retention_days=days, now=host.clock.now_us())

    return [cron("15 2 * * *", retain, name="audit-retention", run_missed=True)]
