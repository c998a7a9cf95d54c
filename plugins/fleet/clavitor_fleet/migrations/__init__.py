"""The plugin's schema history. A new revision is a new module here, named in `HISTORY`."""

from clavitor_fleet.agents.tables import TABLES as AGENTS
from clavitor_fleet.alerts.tables import TABLES as ALERTS
from clavitor_fleet.apps.tables import TABLES as APPS
from clavitor_fleet.artifacts.tables import TABLES as ARTIFACTS
from clavitor_fleet.connections.tables import TABLES as CONNECTIONS
from clavitor_fleet.deployments.tables import TABLES as DEPLOYMENTS
from clavitor_fleet.environments.tables import TABLES as ENVIRONMENTS
from clavitor_fleet.retention.tables import TABLES as RETENTION
from clavitor_fleet.telemetry.tables import TABLES as TELEMETRY
from clavitor_host.api import Migrations

HISTORY = Migrations(
    name="fleet",
    package="clavitor_fleet.migrations",
    revisions=(
        "r0001_environments",
        "r0002_artifacts",
        "r0003_deployments",
        "r0004_agents",
        "r0005_connections",
        "r0006_alerts",
        "r0007_telemetry",
        "r0008_retention",
    ),
    tables=(
        *ENVIRONMENTS,
        *APPS,
        *ARTIFACTS,
        *DEPLOYMENTS,
        *AGENTS,
        *CONNECTIONS,
        *ALERTS,
        *TELEMETRY,
        *RETENTION,
    ),
)
