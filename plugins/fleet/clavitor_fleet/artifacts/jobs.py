"""Background work of artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clavitor_host.api import every

if TYPE_CHECKING:
    from clavitor_fleet.fleet import Fleet
    from clavitor_host.api import Job

INTERVAL = 30.0
"""Seconds between two sweeps."""


def artifact_jobs(fleet: Fleet) -> Sequence[Job]:
    """Return the jobs: deleting the bytes of what is no artifact any more, or will never be."""

    async def sweep() -> None:
        from clavitor_fleet.artifacts.chunks import sweep

        await sweep(fleet.host)

    return [every(INTERVAL, sweep, name="artifact_bytes", exclusive=True)]
