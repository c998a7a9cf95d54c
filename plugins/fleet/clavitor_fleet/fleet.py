"""`Fleet`: what the features keep for the life of an app. `fleet_of(host)` gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_fleet.agents.hub import EventHub
    from clavitor_fleet.agents.refusals import Refusals
    from clavitor_fleet.agents.twins import Twins
    from clavitor_fleet.config import FleetConfig
    from clavitor_fleet.connections.deliverer import Deliverer
    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_fleet.retention.applier import RetentionPolicyApplier
    from clavitor_fleet.telemetry.intake import Intake
    from clavitor_fleet.telemetry.store import TelemetryStore
    from clavitor_host.api import Host

NAME = "fleet"


class Fleet:
    """One per app. `hub`: wakes the event streams of agents; `twins`: says when two processes are one agent;
    `refusals`: agents without a seat; `telemetry`: the store in use; `intake`: takes batches in for it; `retention`:
    applies what caps and environments say; `deliverer`: sends what waits for outbound connections."""

    hub: EventHub
    twins: Twins
    refusals: Refusals
    telemetry: TelemetryStore
    intake: Intake
    retention: RetentionPolicyApplier
    deliverer: Deliverer

    def __init__(self, host: Host, config: FleetConfig, metrics: FleetMetrics) -> None:
        from clavitor_fleet.agents.hub import EventHub
        from clavitor_fleet.agents.refusals import Refusals
        from clavitor_fleet.agents.twins import Twins
        from clavitor_fleet.connections.deliverer import Deliverer
        from clavitor_fleet.retention.applier import RetentionPolicyApplier
        from clavitor_fleet.telemetry.intake import Intake
        from clavitor_fleet.telemetry.open import open_store

        self.host = host
        self.config = config
        self.metrics = metrics
        metrics.host = host
        self.hub = EventHub(host, metrics)
        self.twins = Twins(host.clock)
        self.refusals = Refusals(host)
        self.telemetry = open_store(host, config, metrics)
        self.intake = Intake(host, self.telemetry, metrics)
        self.retention = RetentionPolicyApplier(host, self.telemetry, metrics)
        self.deliverer = Deliverer(host, config, metrics)

    async def start(self) -> None:
        """Prepare to serve."""
        from clavitor_fleet.agents.watch import resume

        if not self.host.offline:
            await resume(self.host)
        await self.telemetry.start()
        await self.hub.start()
        await self.retention.start()

    async def stop(self) -> None:
        """Let go of everything."""
        await self.retention.stop()
        await self.hub.stop()
        await self.deliverer.stop()
        await self.telemetry.stop()


def fleet_of(host: Host) -> Fleet:
    """Return the `Fleet` of an app."""
    fleet: Fleet = host.state[NAME]
    return fleet
