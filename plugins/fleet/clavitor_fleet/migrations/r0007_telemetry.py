"""Telemetry of agents, in the default store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007_telemetry"
down_revision = "r0006_alerts"


def upgrade() -> None:
    op.create_table(
        "telemetry_places",
        _id(),
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_telemetry_places_app_id", "telemetry_places", ["app_id", "environment_id"], unique=True)
    op.create_table(
        "telemetry_retention",
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("execution", sa.Integer(), nullable=False),
        sa.Column("log", sa.Integer(), nullable=False),
        sa.Column("metric", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("environment_id"),
    )
    op.create_table(
        "telemetry_batches",
        _id(),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    columns = ["agent_id", "stream", "batch"]
    op.create_index("ix_telemetry_batches_agent_id", "telemetry_batches", columns, unique=True)
    op.create_index("ix_telemetry_batches_taken_at", "telemetry_batches", ["taken_at"])
    _rows(
        "telemetry_executions",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("duration_ms", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attributes", sa.Text(), nullable=True),
    )
    _rows(
        "telemetry_processors",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("processor_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Double(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
    )
    _rows(
        "telemetry_route_diagrams",
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("diagram", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
    )
    _rows(
        "telemetry_agent_events",
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("attributes", sa.Text(), nullable=True),
    )
    op.create_index("ix_telemetry_agent_events_type", "telemetry_agent_events", ["type", "ts"])
    _rows(
        "telemetry_logs",
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("logger", sa.Text(), nullable=True),
        sa.Column("attributes", sa.Text(), nullable=True),
    )
    _rows(
        "telemetry_metrics",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=True),
    )
    op.create_index("ix_telemetry_metrics_name", "telemetry_metrics", ["name", "ts"])


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False)


def _rows(name: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("place_id", sa.BigInteger(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(f"ix_{name}_place_id", name, ["place_id", "ts", "id"])
