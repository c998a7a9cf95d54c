"""What `clavitor status` shows of the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clavitor_host.api import Host

LIMITS = ("max_environments", "max_apps", "max_agents", "max_total_replicas")


async def report(host: Host) -> dict[str, Any]:
    """Return how many there are of what matters most."""
    from clavitor_fleet.limits import usage

    async with host.db.snapshot() as tx:
        used = await usage(host, tx, LIMITS)
    return {limit.removeprefix("max_").removeprefix("total_"): used[limit] for limit in LIMITS}
