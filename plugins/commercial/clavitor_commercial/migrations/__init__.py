"""The plugin's schema history. A new revision is a new module here, named in `HISTORY`."""

from clavitor_host.api import Migrations

HISTORY = Migrations(
    name="commercial",
    package="clavitor_commercial.migrations",
    revisions=("r0001_spool",),
    tables=("telemetry_spool", "telemetry_state"),
)
