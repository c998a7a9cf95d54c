"""What this plugin counts, by the limit that it counts to: one aggregate each (seed section 5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

from clavitor_fleet.agents.liveness import count_live_agents
from clavitor_fleet.alerts.service import count_alert_rules
from clavitor_fleet.apps.service import count_apps
from clavitor_fleet.connections.service import count_connections
from clavitor_fleet.deployments.service import compute_in_use
from clavitor_fleet.environments.models import RETENTION_LIMITS
from clavitor_fleet.environments.service import count_environments, highest_retention

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction

Count = Callable[["Host", "Transaction"], Awaitable[Mapping[str, int]]]


def _one(limit: str, count: Callable[[Transaction], Awaitable[int]]) -> Count:
    async def counted(host: Host, tx: Transaction) -> Mapping[str, int]:
        return {limit: await count(tx)}

    return counted


async def _agents(host: Host, tx: Transaction) -> Mapping[str, int]:
    return {"max_agents": await count_live_agents(host, tx)}


async def _compute(host: Host, tx: Transaction) -> Mapping[str, int]:
    return await compute_in_use(tx)


async def _retention(host: Host, tx: Transaction) -> Mapping[str, int]:
    return await highest_retention(tx)


COUNTS: Final[tuple[tuple[frozenset[str], Count], ...]] = (
    (frozenset({"max_environments"}), _one("max_environments", count_environments)),
    (frozenset({"max_apps"}), _one("max_apps", count_apps)),
    (frozenset({"max_agents"}), _agents),
    (frozenset({"max_outbound_connections"}), _one("max_outbound_connections", count_connections)),
    (frozenset({"max_alert_rules"}), _one("max_alert_rules", count_alert_rules)),
    (frozenset({"max_total_cpu_millis", "max_total_memory_mb", "max_total_replicas"}), _compute),
    (frozenset(RETENTION_LIMITS.values()), _retention),
)
"""Which limits one query answers."""


async def usage(host: Host, tx: Transaction, limits: Collection[str]) -> dict[str, int]:
    """Return `{limit: current}` of those limits that are ours, with no query for what is not asked."""
    found: dict[str, int] = {}
    for answers, count in COUNTS:
        if not answers.isdisjoint(limits):
            found |= await count(host, tx)
    return found
