"""The background work of all features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_fleet.fleet import Fleet
    from clavitor_host.api import Job


def fleet_jobs(fleet: Fleet) -> Sequence[Job]:
    """Return the jobs of every feature."""
    from clavitor_fleet.agents.jobs import agent_jobs
    from clavitor_fleet.alerts.jobs import alert_jobs
    from clavitor_fleet.artifacts.jobs import artifact_jobs
    from clavitor_fleet.connections.jobs import connection_jobs
    from clavitor_fleet.deployments.jobs import deployment_jobs
    from clavitor_fleet.retention.jobs import retention_jobs

    features = (artifact_jobs, deployment_jobs, agent_jobs, connection_jobs, alert_jobs, retention_jobs)
    return [job for feature in features for job in feature(fleet)]
