"""Background work of retention."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from clavitor_host.api import worker

if TYPE_CHECKING:
    from clavitor_fleet.fleet import Fleet
    from clavitor_host.api import Job


def retention_jobs(fleet: Fleet) -> Sequence[Job]:
    """Return the jobs."""
    from clavitor_fleet.artifacts.service import prune
    from clavitor_fleet.retention.expiry import expire, whenever_due

    host = fleet.host
    works: dict[str, Callable[[], Awaitable[object]]] = {
        "telemetry_expiry": partial(expire, fleet.telemetry, host.clock),
        "artifact_pruning": partial(prune, host),
    }
    return [worker(partial(whenever_due, host, work), name=name, exclusive=True) for name, work in works.items()]
