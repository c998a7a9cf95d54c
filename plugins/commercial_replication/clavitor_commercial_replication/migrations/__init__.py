"""The plugin's schema history. A new revision is a new module here, named in `HISTORY`."""

from clavitor_commercial_replication.tables import TABLES
from clavitor_host.api import Migrations

HISTORY = Migrations(
    name="commercial_replication",
    package="clavitor_commercial_replication.migrations",
    revisions=("r0001_replication",),
    tables=TABLES,
)
