"""Background work of connections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from clavitor_fleet.connections.notices import raise_notices
from clavitor_host.api import worker

if TYPE_CHECKING:
    from clavitor_fleet.fleet import Fleet
    from clavitor_host.api import Job


def connection_jobs(fleet: Fleet) -> Sequence[Job]:
    """Return the jobs: sending, and alerting the operator."""
    return [
        worker(fleet.deliverer.work, name="deliveries", exclusive=True),
        worker(partial(raise_notices, fleet.host), name="operator-notices", exclusive=True),
    ]
