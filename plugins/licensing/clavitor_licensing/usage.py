"""How much of every limit is in use (seed section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_licensing.domain.limits import LIMITS, LicenseLimits
from clavitor_licensing.models import LimitUsage

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction


async def read_usage(host: Host, tx: Transaction | None = None) -> dict[str, int]:
    """Return `{limit: current}` of all thirteen, counted in one transaction; what nobody counts is 0.

    tx: None counts in a snapshot, which waits for no writer.
    """
    if tx is None:
        async with host.db.snapshot() as own:
            counted = await host.cap_usage(own, LIMITS)
    else:
        counted = await host.cap_usage(tx, LIMITS)
    return {key: counted.get(key, 0) for key in LIMITS}


def usage_rows(used: dict[str, int], limits: LicenseLimits) -> tuple[LimitUsage, ...]:
    """Return what is used beside what is allowed."""
    return tuple(LimitUsage(key, used[key], limits.cap(key), limits.source(key)) for key in LIMITS)
