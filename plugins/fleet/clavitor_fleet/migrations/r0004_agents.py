"""Agents and their commands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004_agents"
down_revision = "r0003_deployments"


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=True),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("stale_at", sa.BigInteger(), nullable=True),
        sa.Column("unreported_stale_at", sa.BigInteger(), nullable=True),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.Column("stream_id", sa.Text(), nullable=True),
        sa.Column("command_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"]),
    )
    op.create_index("ix_agents_app_id", "agents", ["app_id", "instance_id"], unique=True)
    op.create_index("ix_agents_liveness", "agents", ["gone_at", "stale_at", "last_seen_at"])
    op.create_index("ix_agents_environment_id", "agents", ["environment_id"])
    op.create_index("ix_agents_deployment_id", "agents", ["deployment_id"])
    op.create_index(
        "ix_agents_unreported_stale_at",
        "agents",
        ["unreported_stale_at"],
        sqlite_where=sa.text("unreported_stale_at IS NOT NULL"),
        postgresql_where=sa.text("unreported_stale_at IS NOT NULL"),
    )
    op.create_table(
        "agent_commands",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "agent_watch",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("looked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_agent_commands_seq", "agent_commands", ["agent_id", "seq"], unique=True)
    op.create_index("ix_agent_commands_status", "agent_commands", ["agent_id", "status"])
    op.create_index("ix_agent_commands_expires_at", "agent_commands", ["status", "expires_at"])
