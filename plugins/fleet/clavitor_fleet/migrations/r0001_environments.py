"""Environments and the apps in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001_environments"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "environments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(), nullable=False),
        sa.Column("execution_retention_days", sa.Integer(), server_default="1", nullable=False),
        sa.Column("log_retention_days", sa.Integer(), server_default="1", nullable=False),
        sa.Column("metric_retention_days", sa.Integer(), server_default="1", nullable=False),
        sa.Column("jar_retention_count", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_environments_name_key", "environments", ["name_key"], unique=True)
    op.create_table(
        "apps",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"]),
    )
    op.create_index("ix_apps_environment_id", "apps", ["environment_id", "name_key"], unique=True)
