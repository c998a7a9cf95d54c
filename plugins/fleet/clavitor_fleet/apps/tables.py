"""The table of apps."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata, named

apps = sa.Table(
    "apps",
    metadata,
    *named(),
    sa.Column("environment_id", sa.Text, sa.ForeignKey("environments.id"), nullable=False),
    sa.Index("ix_apps_environment_id", "environment_id", "name_key", unique=True),
)

TABLES = ("apps",)
