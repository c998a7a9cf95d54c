"""The plugin's schema history. A new revision is a new module here, named in `HISTORY`."""

from clavitor_host.api import Migrations

HISTORY = Migrations(
    name="licensing",
    package="clavitor_licensing.migrations",
    revisions=("r0001_license",),
    tables=("license", "license_state"),
)
