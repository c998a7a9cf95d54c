"""The tables of agents and of commands to them."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("app_id", sa.Text, sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("environment_id", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text),
    sa.Column("instance_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("status", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("registered_at", sa.BigInteger, nullable=False),
    sa.Column("last_seen_at", sa.BigInteger, nullable=False),
    sa.Column("stale_at", sa.BigInteger),
    sa.Column("unreported_stale_at", sa.BigInteger),
    sa.Column("gone_at", sa.BigInteger),
    sa.Column("stream_id", sa.Text),
    sa.Column("command_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_agents_app_id", "app_id", "instance_id", unique=True),
    sa.Index("ix_agents_liveness", "gone_at", "stale_at", "last_seen_at"),
    sa.Index("ix_agents_environment_id", "environment_id"),
    sa.Index("ix_agents_deployment_id", "deployment_id"),
    sa.Index(
        "ix_agents_unreported_stale_at",
        "unreported_stale_at",
        sqlite_where=sa.text("unreported_stale_at IS NOT NULL"),
        postgresql_where=sa.text("unreported_stale_at IS NOT NULL"),
    ),
)
"""`environment_id`: of the app. `registered_at`: the last time. `stale_at`: when it was noted that heartbeats are
missed; until then the clock alone tells. `unreported_stale_at`: the same, until the agent event of it is in telemetry,
even when the agent has come back. `stream_id`: of the newest event stream; others end. `command_seq`: of the
last command."""

agent_commands = sa.Table(
    "agent_commands",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, sa.ForeignKey("agents.id", ondelete="CASCADE"), nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("detail", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.Index("ix_agent_commands_seq", "agent_id", "seq", unique=True),
    sa.Index("ix_agent_commands_status", "agent_id", "status"),
    sa.Index("ix_agent_commands_expires_at", "status", "expires_at"),
)
"""`seq`: 1, 2, … for each agent, committed in this order. `payload`: JSON. `status`: PENDING until the agent has
acknowledged it (DONE, FAILED) or its time is over (EXPIRED)."""

agent_watch = sa.Table(
    "agent_watch",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("looked_at", sa.BigInteger, nullable=False),
)
"""One row, `id` 1. `looked_at`: when a process last was there to hear heartbeats; see `watch`."""

TABLES = ("agents", "agent_commands", "agent_watch")
