"""The table of environments."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata, named

environments = sa.Table(
    "environments",
    metadata,
    *named(),
    sa.Column("execution_retention_days", sa.Integer, nullable=False, server_default="1"),
    sa.Column("log_retention_days", sa.Integer, nullable=False, server_default="1"),
    sa.Column("metric_retention_days", sa.Integer, nullable=False, server_default="1"),
    sa.Column("jar_retention_count", sa.Integer, nullable=False, server_default="1"),
    sa.Index("ix_environments_name_key", "name_key", unique=True),
)
"""`id`: what entries and tokens name as `environment_id`. The retention columns are what is configured (seed section
4.2); what holds is the lesser of that and the cap."""

TABLES = ("environments",)
