"""How replication stands, read from the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from clavitor_commercial_replication.models import Role
    from clavitor_commercial_replication.service import Replication


class Facts(NamedTuple):
    """What the database says. Seconds are ages; `_at` are µs since the epoch."""

    role: Role
    epoch: int
    depth: int
    oldest_dirty_seconds: float
    lag_seconds: float | None
    last_success_at: int | None
    quarantined: int
    mismatches: int


async def facts_of(service: Replication) -> Facts | None:
    """Return how replication stands, None when it has never begun."""
    return None


async def report(service: Replication) -> dict[str, Any]:
    """Return what `clavitor status` shows of replication."""
    return {"on": service.on}


async def trouble(service: Replication) -> str | None:
    """Return one sentence about what is wrong, None when nothing is."""
    return None
