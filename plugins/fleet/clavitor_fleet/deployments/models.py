"""Typed values of deployments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

Status = Literal["PRE_FLIGHT", "STARTING", "RUNNING", "STOPPED", "FAILED"]
"""PRE_FLIGHT: admitted, and a runtime has not taken it yet. STARTING: agents are awaited. RUNNING: as many as it has
replicas were LIVE at once. STOPPED, FAILED: ended, holding nothing."""

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
HOLDING: Final[tuple[Status, ...]] = ("PRE_FLIGHT", "STARTING", "RUNNING")
"""What counts to the caps on compute and keeps its artifact."""


class Size(NamedTuple):
    """How big a deployment runs. cpu_millis, memory_mb: of each replica, None where nothing was said."""

    replicas: int
    cpu_millis: int | None
    memory_mb: int | None

    def totals(self) -> dict[str, int]:
        """Return what it holds, by limit."""
        return {
            "max_total_cpu_millis": self.replicas * (self.cpu_millis or 0),
            "max_total_memory_mb": self.replicas * (self.memory_mb or 0),
            "max_total_replicas": self.replicas,
        }


class Deployment(NamedTuple):
    """A deployment. Times are µs since the epoch.

    failure: why it FAILED; runtime: what the plugin that runs it tells. generation: counts what was asked of it.
    reconcile_at: when a runtime is to be told of that, None when there is nothing to tell. attempts: how often telling
    it has failed in a row.
    """

    id: str
    app_id: str
    artifact_id: str | None
    replicas: int
    cpu_millis: int | None
    memory_mb: int | None
    status: Status
    failure: Mapping[str, Any] | None
    runtime: Mapping[str, Any] | None
    created_at: int
    created_by: str
    updated_at: int
    running_at: int | None
    ended_at: int | None
    generation: int
    reconcile_at: int | None
    attempts: int

    @property
    def size(self) -> Size:
        return Size(self.replicas, self.cpu_millis, self.memory_mb)

    @property
    def ended(self) -> bool:
        return self.status not in HOLDING
