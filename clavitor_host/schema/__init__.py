"""The host's own schema history. A new revision is a new module here, named in `HISTORY`."""

from clavitor_host.storage.migrations import Migrations

HISTORY = Migrations(
    name="host",
    package="clavitor_host.schema",
    revisions=("r0001_initial", "r0002_entry_departures"),
    tables=(
        "audit_checkpoints",
        "audit_head",
        "audit_log",
        "entries",
        "entry_departures",
        "job_runs",
        "leases",
        "login_failures",
        "oidc_logins",
        "sessions",
        "setup_tokens",
        "tokens",
        "users",
        "vault_head",
    ),
)
