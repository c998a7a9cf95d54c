"""What deployments hold of the three limits on compute, and whether more may be held (seed section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.deployments.models import HOLDING, Size
from clavitor_fleet.deployments.tables import deployments
from clavitor_host.api import CapExceeded

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction


def _sum(column: sa.ColumnElement[Any], limit: str) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0).label(limit)


_IN_USE = sa.select(
    _sum(deployments.c.replicas * deployments.c.cpu_millis, "max_total_cpu_millis"),
    _sum(deployments.c.replicas * deployments.c.memory_mb, "max_total_memory_mb"),
    _sum(deployments.c.replicas, "max_total_replicas"),
).where(deployments.c.status.in_(HOLDING))


async def compute_in_use(tx: Transaction) -> dict[str, int]:
    """Return what the three limits on compute count, by one query."""
    row = await tx.fetch_one(_IN_USE)
    assert row is not None
    return {limit: int(total) for limit, total in row.items()}


async def assert_room(host: Host, tx: Transaction, size: Size, before: Size | None, requested_by: str) -> None:
    """Raise `CapExceeded` unless a deployment may have `size`: the first thing in a transaction.

    before: the size that it has, None for a new one. Only what grows is asked for. requested_by: the audit actor.
    """
    held = before.totals() if before is not None else {}
    for limit, total in size.totals().items():
        growth = total - held.get(limit, 0)
        if growth > 0:
            await host.assert_within_cap(tx, limit, growth, requested_by)


async def failure_of(host: Host, tx: Transaction, size: Size, requested_by: str) -> Mapping[str, Any] | None:
    """Return why a new deployment fails PRE_FLIGHT, None when it does not: the first thing in a transaction.

    Of a refusal by a cap it is the body of the seed's section 4: error, limit, current, cap, state, message.
    """
    unset = [field for field in ("cpu_millis", "memory_mb") if getattr(size, field) is None]
    if unset:
        message = f"The deployment does not say how much each replica needs: set {' and '.join(unset)}."
        return {"error": "compute not set", "message": message, "field": unset[0], "fields": unset}
    try:
        await assert_room(host, tx, size, None, requested_by)
    except CapExceeded as refusal:
        return refusal.extra
    return None
