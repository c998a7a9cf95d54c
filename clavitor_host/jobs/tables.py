"""The table of the jobs: when each cron job that must not run twice, or must not be missed, last ran."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_host.storage.tables import metadata

job_runs = sa.Table(
    "job_runs",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("last_run_at", sa.BigInteger, nullable=False),
)
"""`name` is `<plugin>.<job>`; `last_run_at` in µs since the epoch."""
