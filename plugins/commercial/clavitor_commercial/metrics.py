"""The plugin's metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from clavitor_commercial.items import KINDS, Kind

if TYPE_CHECKING:
    from clavitor_commercial.spool import Fares
    from clavitor_host.api import Metrics

MeasureFares = Callable[[], Awaitable[Mapping[Kind, "Fares"]]]


class TelemetryMetrics:
    """What is counted in this process, and measured in the database at each scrape."""

    def __init__(self, registry: Metrics, fares: MeasureFares) -> None:
        """fares: how each kind fares; nothing while there is no database."""
        self._fares = fares
        self._sent = registry.counter(
            "clavitor_telemetry_sent_total",
            "Attempts to send an alert or a report, by outcome: delivered, refused, retry (any other answer) "
            "or unreachable (no answer).",
            ("kind", "outcome"),
        )
        self._dropped = registry.counter(
            "clavitor_telemetry_dropped_total",
            "Alerts and reports that will not be sent, by reason: full (the spool), memory (the queue while the "
            "database is away), refused (by the receiver) or shutdown.",
            ("kind", "reason"),
        )
        registry.on_scrape(
            "clavitor_telemetry_spooled", "Alerts and reports that wait to be sent.", self._spooled, ("kind",)
        )
        registry.on_scrape(
            "clavitor_telemetry_last_success_timestamp_seconds",
            "When the receiver last took an alert or a report; 0 before the first time.",
            self._last_success,
            ("kind",),
        )

    def sent(self, kind: Kind, outcome: str) -> None:
        """Count one attempt."""
        self._sent.labels(kind, outcome).inc()

    def dropped(self, kind: Kind, reason: str, number: int = 1) -> None:
        """Count items that will not be sent."""
        self._dropped.labels(kind, reason).inc(number)

    async def _spooled(self) -> dict[tuple[str, ...], float]:
        fares = await self._fares()
        return {(kind,): fares[kind].spooled for kind in KINDS if kind in fares}

    async def _last_success(self) -> dict[tuple[str, ...], float]:
        fares = await self._fares()
        return {(kind,): (fares[kind].delivered_at or 0) / 1_000_000 for kind in KINDS if kind in fares}
