"""Background work of deployments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clavitor_fleet.deployments.store import has_runtime
from clavitor_host.api import worker

if TYPE_CHECKING:
    from clavitor_fleet.fleet import Fleet
    from clavitor_host.api import Job


def deployment_jobs(fleet: Fleet) -> Sequence[Job]:
    """Return the jobs: telling a runtime what deployments want, where a plugin is one."""
    if not has_runtime(fleet.host):
        return []

    async def tell() -> None:
        from clavitor_fleet.deployments.runtime import run

        await run(fleet.host)

    return [worker(tell, name="deployment_runtime", exclusive=True)]
