"""Fleet: environments, apps, artifacts, agents, deployments, telemetry, alerts, outbound connections (fleet.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clavitor_host.api import (
    CapsChange,
    Change,
    HealthCheck,
    Host,
    Job,
    Metrics,
    Migrations,
    Plugin,
    Transaction,
    hookimpl,
)

if TYPE_CHECKING:
    from pydantic import BaseModel
    from quart import Blueprint

    from clavitor_fleet.fleet import Fleet
    from clavitor_fleet.metrics import FleetMetrics

NAME = "fleet"


class FleetPlugin(Plugin):
    """Hooks only; `fleet.Fleet` holds what the features keep."""

    name = NAME
    version = "1.0.0"

    _fleet: Fleet | None = None
    _metrics: FleetMetrics

    @hookimpl
    def config_model(self) -> type[BaseModel]:
        from clavitor_fleet.config import FleetConfig

        return FleetConfig

    @hookimpl
    def migrations(self) -> Migrations:
        from clavitor_fleet.migrations import HISTORY

        return HISTORY

    @hookimpl
    async def startup(self, host: Host) -> None:
        await self._of(host).start()

    @hookimpl
    async def shutdown(self, host: Host) -> None:
        await self._of(host).stop()

    @hookimpl
    def blueprints(self, host: Host) -> Sequence[Blueprint]:
        from clavitor_fleet.agents import routes as agents
        from clavitor_fleet.agents import routes_commands, routes_events
        from clavitor_fleet.alerts import routes as alerts
        from clavitor_fleet.apps import routes as apps
        from clavitor_fleet.artifacts import routes as artifacts
        from clavitor_fleet.connections import routes as connections
        from clavitor_fleet.deployments import routes as deployments
        from clavitor_fleet.environments import routes as environments
        from clavitor_fleet.retention import routes as retention
        from clavitor_fleet.telemetry import routes as telemetry

        of_agents = (agents, routes_commands, routes_events)
        features = (environments, apps, artifacts, deployments, *of_agents, connections, alerts, telemetry, retention)
        return [feature.blueprint for feature in features]

    @hookimpl
    def jobs(self, host: Host) -> Sequence[Job]:
        from clavitor_fleet.jobs import fleet_jobs

        return fleet_jobs(self._of(host))

    @hookimpl
    def metrics(self, registry: Metrics) -> None:
        from clavitor_fleet.metrics import FleetMetrics

        self._metrics = FleetMetrics(registry)

    @hookimpl
    async def entry_changing(self, host: Host, tx: Transaction, change: Change) -> None:
        """Refuse an entry in an environment that is not there, and wake the agents of the environments concerned."""
        from clavitor_fleet.agents.changes import note_change

        await note_change(host, tx, change)

    @hookimpl
    async def cap_usage(self, host: Host, tx: Transaction, limits: Collection[str]) -> Mapping[str, int]:
        from clavitor_fleet.limits import usage

        return await usage(host, tx, limits)

    @hookimpl
    async def cap_values(self, tx: Transaction) -> Mapping[str, Mapping[str, int]]:
        from clavitor_fleet.environments.service import configured_retention

        return await configured_retention(tx)

    @hookimpl
    async def caps_changed(self, host: Host, change: CapsChange) -> None:
        self._of(host).retention.request()

    @hookimpl
    def health_checks(self, host: Host) -> Sequence[HealthCheck]:
        fleet = self._of(host)
        if fleet.config.telemetry_url is None:
            return []
        from clavitor_fleet.telemetry.clickhouse_store import ClickHouseStore

        assert isinstance(fleet.telemetry, ClickHouseStore)
        return [HealthCheck("fleet_telemetry", fleet.telemetry.check, critical=False)]

    @hookimpl
    async def status_report(self, host: Host) -> Mapping[str, Any]:
        from clavitor_fleet.status import report

        return await report(host)

    def _of(self, host: Host) -> Fleet:
        """Return what the features keep, made at its first use: every hook but `metrics` comes after the
        configuration."""
        if self._fleet is None:
            from clavitor_fleet.config import FleetConfig
            from clavitor_fleet.fleet import Fleet

            config = host.plugin_config(NAME)
            assert isinstance(config, FleetConfig)
            self._fleet = Fleet(host, config, self._metrics)
            host.state[NAME] = self._fleet
        return self._fleet


plugin = FleetPlugin
