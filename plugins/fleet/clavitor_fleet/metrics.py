"""The plugin's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_fleet.telemetry.store import STREAMS

if TYPE_CHECKING:
    from clavitor_host.api import Host, Metrics


class FleetMetrics:
    """One attribute a metric; features count on them."""

    host: Host | None = None
    """Set once there is one: for what is measured in the database at each scrape."""

    def __init__(self, registry: Metrics) -> None:
        self.event_streams = registry.gauge(
            "clavitor_fleet_event_streams", "Event streams of agents that are open now."
        )
        self.event_wakes = registry.counter(
            "clavitor_fleet_event_wakes_total",
            "Times that an event stream was woken because there was something to send.",
        )
        self.telemetry_rows = registry.counter(
            "clavitor_fleet_telemetry_rows_total", "Telemetry rows taken.", ("stream",)
        )
        self.deliveries = registry.counter(
            "clavitor_fleet_deliveries_total",
            "Attempts to send to outbound connections: delivered or retried; and what was given up or dropped.",
            ("outcome",),
        )
        registry.on_scrape("clavitor_fleet_artifact_bytes", "Bytes of all artifacts.", self._artifact_bytes)
        registry.on_scrape(
            "clavitor_fleet_agents", "Agents that are not gone: LIVE, or STALE.", self._agents, ("state",)
        )
        registry.on_scrape(
            "clavitor_fleet_replicas",
            "Replicas of deployments that have not ended: wanted, and ready, which are LIVE.",
            self._replicas,
            ("kind",),
        )
        registry.on_scrape(
            "clavitor_fleet_alerts_firing", "Alert rules that are firing.", self._alerts_firing, ("severity",)
        )
        self.alert_transitions = registry.counter(
            "clavitor_fleet_alert_transitions_total", "Changes of alert rules to pending, firing, resolved.", ("state",)
        )
        self.retention_failures = registry.counter(
            "clavitor_fleet_retention_failures_total", "Retention that could not be applied; the previous one holds."
        )
        self.retention_applied = registry.counter(
            "clavitor_fleet_retention_applied_total", "Times that retention was applied."
        )
        self.telemetry_expired = registry.counter(
            "clavitor_fleet_telemetry_expired_rows_total",
            "Telemetry rows deleted because their time was over.",
            ("stream",),
        )
        self._show_from_the_start()

    def _show_from_the_start(self) -> None:
        """Have every label there before anything is counted, so that the first increase is seen as one."""
        for counter, values in (
            (self.telemetry_rows, STREAMS),
            (self.telemetry_expired, STREAMS),
            (self.deliveries, ("delivered", "retried", "given_up", "dropped")),
            (self.alert_transitions, ("pending", "firing", "resolved")),
        ):
            for value in values:
                counter.labels(value).inc(0)

    async def _artifact_bytes(self) -> dict[tuple[str, ...], float]:
        from clavitor_fleet.artifacts.service import total_size

        return {} if self.host is None else {(): float(await total_size(self.host))}

    async def _agents(self) -> dict[tuple[str, ...], float]:
        from clavitor_fleet.agents.liveness import count_agents

        return {} if self.host is None else await count_agents(self.host)

    async def _replicas(self) -> dict[tuple[str, ...], float]:
        from clavitor_fleet.deployments.places import count_replicas

        return {} if self.host is None else await count_replicas(self.host)

    async def _alerts_firing(self) -> dict[tuple[str, ...], float]:
        from clavitor_fleet.alerts.service import count_firing

        return {} if self.host is None else await count_firing(self.host)
