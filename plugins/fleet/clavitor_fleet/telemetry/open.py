"""Which store is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_fleet.config import FleetConfig
    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_fleet.telemetry.store import TelemetryStore
    from clavitor_host.api import Host


def open_store(host: Host, config: FleetConfig, metrics: FleetMetrics) -> TelemetryStore:
    """Return the store that is configured. Raises `StartError` when it cannot be used."""
    if config.telemetry_url is not None:
        from clavitor_fleet.telemetry.clickhouse_store import ClickHouseStore

        return ClickHouseStore(host, config.telemetry_url.get_secret_value())
    from clavitor_fleet.telemetry.sql_store import SqlStore

    return SqlStore(host, metrics)
