"""Tables of retention: what was applied last, and why the last attempt failed, if it did."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata

retention_applied = sa.Table(
    "retention_applied",
    metadata,
    sa.Column("environment_id", sa.Text, primary_key=True),
    sa.Column("execution", sa.Integer, nullable=False),
    sa.Column("log", sa.Integer, nullable=False),
    sa.Column("metric", sa.Integer, nullable=False),
    sa.Column("applied_at", sa.BigInteger, nullable=False),
)
"""Days in force, and since when."""

retention_failures = sa.Table(
    "retention_failures",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("failed_at", sa.BigInteger, nullable=False),
)
"""One row (id 1) as long as what was asked for last could not be applied; none otherwise."""

TABLES = ("retention_applied", "retention_failures")
