"""The table of apps."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata

apps = sa.Table(
    "apps",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("environment_id", sa.Text, sa.ForeignKey("environments.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_apps_environment_id", "environment_id", "name_key", unique=True),
)

TABLES = ("apps",)
