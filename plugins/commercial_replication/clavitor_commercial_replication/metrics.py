"""The plugin's metrics. What the database knows is measured at each scrape; with replication off it is all 0."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, get_args

from clavitor_commercial_replication.models import Role

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication
    from clavitor_commercial_replication.status import Facts
    from clavitor_host.api import Metrics

ACK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2.5, 10, 60, 600, 3600)
"""Seconds from a write's commit to the backup's confirmation: milliseconds as a rule, hours while it is away."""

FRESH = 0.25
"""Seconds for which one reading of the database serves the gauges of a scrape."""

_ROLES: tuple[str, ...] = get_args(Role)


class ReplicationMetrics:
    """`service`: the service, None before there is one.

    `failures`: requests to the backup that failed, by reason. `fallback_reads`: reads that clients made here instead of
    at the primary. `acknowledged`: commit to confirmation, in seconds an entry. `applied`: entries taken from the
    primary, by outcome.
    """

    def __init__(self, registry: Metrics, service: Callable[[], Replication | None]) -> None:
        self._service = service
        self._read_at = float("-inf")
        self._read: Facts | None = None
        self.failures = registry.counter(
            "clavitor_replication_failures_total", "Requests to the backup POP that failed, by reason.", ("reason",)
        )
        self.fallback_reads = registry.counter(
            "clavitor_replication_fallback_reads_total",
            "Reads of clients that this POP answered in the primary's place.",
        )
        self.acknowledged = registry.histogram(
            "clavitor_replication_ack_seconds",
            "Seconds from the commit of a write to its confirmation by the backup POP.",
            buckets=ACK_BUCKETS,
        )
        self.applied = registry.counter(
            "clavitor_replication_applied_total", "Entries that the primary POP sent here, by outcome.", ("outcome",)
        )
        gauges: tuple[tuple[str, str, Callable[[Facts], float]], ...] = (
            ("queue_depth", "Entries that the backup POP has not confirmed.", lambda facts: facts.depth),
            (
                "lag_seconds",
                "How far the backup POP may be behind, in seconds: on a primary the age of the oldest write that is on "
                "its way, on a backup the age of the last moment up to which it has everything.",
                lambda facts: facts.lag_seconds,
            ),
            (
                "oldest_dirty_seconds",
                "Age of the oldest write that the backup POP has not confirmed, quarantined ones too, in seconds.",
                lambda facts: facts.oldest_dirty_seconds,
            ),
            (
                "last_success_timestamp_seconds",
                "When the other POP last confirmed or sent something, in seconds since the epoch; 0: never.",
                lambda facts: (facts.last_success_at or 0) / 1_000_000,
            ),
            ("quarantined", "Entries that the backup POP refuses for good.", lambda facts: facts.quarantined),
            ("hash_mismatches", "Hashes of 256 that differed at the last comparison.", lambda facts: facts.mismatches),
            ("epoch", "How often the primary's role has been handed on.", lambda facts: facts.epoch),
        )
        for name, help, value in gauges:
            registry.on_scrape(f"clavitor_replication_{name}", help, self._measure(value))
        registry.on_scrape("clavitor_replication_role", "1 for the role that this POP has.", self._role, ("role",))

    def _measure(self, value: Callable[[Facts], float]) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            facts = await self._facts()
            return 0.0 if facts is None else float(value(facts))

        return measure

    async def _role(self) -> dict[tuple[str, ...], float]:
        facts = await self._facts()
        return {(role,): float(facts is not None and facts.role == role) for role in _ROLES}

    async def _facts(self) -> Facts | None:
        """Return what the database says, read once for the gauges of one scrape; None with replication off."""
        service = self._service()
        if service is None or not service.on:
            return None
        now = service.host.clock.monotonic()
        if now - self._read_at > FRESH:
            from clavitor_commercial_replication.status import facts_of

            self._read, self._read_at = await facts_of(service), now
        return self._read
