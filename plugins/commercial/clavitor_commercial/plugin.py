"""The commercial edition: its identity, operator alerts to a central server, telemetry (commercial.md section 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from clavitor_commercial import alerts
from clavitor_host.api import Alert, HealthCheck, Host, Job, Metrics, Migrations, Plugin, hookimpl, worker

if TYPE_CHECKING:
    import typer
    from pydantic import BaseModel

    from clavitor_commercial.items import Kind
    from clavitor_commercial.metrics import TelemetryMetrics
    from clavitor_commercial.spool import Fares
    from clavitor_commercial.telemetry import Telemetry

NAME = "commercial"


class CommercialEdition(Plugin):
    """Hooks only; `telemetry.Telemetry` does the work."""

    name = NAME
    version = "1.0.0"
    outbound_hosts = ("clavitor.ai",)

    _telemetry: Telemetry | None = None
    _metrics: TelemetryMetrics

    @hookimpl
    def edition_name(self) -> Literal["commercial"]:
        return "commercial"

    @hookimpl
    async def alert_operator(self, host: Host, alert: Alert) -> None:
        """Write the whole alert to the log, and have it sent when there is where to."""
        alerts.write_line(alert)
        telemetry = self._of(host)
        if telemetry.enabled:
            await telemetry.alert(alert)

    @hookimpl
    def is_telemetry_enabled(self, host: Host) -> bool:
        return _enabled(host)

    @hookimpl
    def config_model(self) -> type[BaseModel]:
        from clavitor_commercial.config import CommercialConfig

        return CommercialConfig

    @hookimpl
    async def startup(self, host: Host) -> None:
        telemetry = self._of(host)
        if telemetry.enabled:
            telemetry.inbox.start()

    @hookimpl
    async def shutdown(self, host: Host) -> None:
        await self._of(host).inbox.stop()

    @hookimpl
    def migrations(self) -> Migrations:
        from clavitor_commercial.migrations import HISTORY

        return HISTORY

    @hookimpl
    def commands(self) -> Sequence[typer.Typer]:
        from clavitor_commercial.commands import app

        return [app]

    @hookimpl
    def jobs(self, host: Host) -> Sequence[Job]:
        """One process of a deployment sends; with nowhere to send to, none does."""
        telemetry = self._of(host)
        return [worker(telemetry.work, name="telemetry", exclusive=True)] if telemetry.enabled else []

    @hookimpl
    def metrics(self, registry: Metrics) -> None:
        from clavitor_commercial.metrics import TelemetryMetrics

        self._metrics = TelemetryMetrics(registry, self._fares)

    @hookimpl
    def health_checks(self, host: Host) -> Sequence[HealthCheck]:
        telemetry = self._of(host)
        return [HealthCheck("telemetry", telemetry.trouble, critical=False)] if telemetry.enabled else []

    @hookimpl
    async def status_report(self, host: Host) -> Mapping[str, Any]:
        return await self._of(host).report()

    async def _fares(self) -> Mapping[Kind, Fares]:
        return {} if self._telemetry is None else await self._telemetry.spool.fares()

    def _of(self, host: Host) -> Telemetry:
        """Return the service, made at its first use: every hook but `metrics` comes after the configuration."""
        if self._telemetry is None:
            from clavitor_commercial.config import CommercialConfig
            from clavitor_commercial.telemetry import Telemetry

            config = host.plugin_config(NAME)
            assert isinstance(config, CommercialConfig)
            self._telemetry = Telemetry(host, config, self._metrics, enabled=_enabled(host))
            host.state[NAME] = self._telemetry
        return self._telemetry


def _enabled(host: Host) -> bool:
    """Tell whether anything is sent: the operator has configured this plugin, and has not emptied its host."""
    from clavitor_commercial.config import CommercialConfig

    config = host.plugin_config(NAME)
    return host.plugin_configured(NAME) and isinstance(config, CommercialConfig) and bool(config.telemetry_host)


plugin = CommercialEdition
