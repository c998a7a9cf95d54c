"""What retention was applied last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0008_retention"
down_revision = "r0007_telemetry"


def upgrade() -> None:
    op.create_table(
        "retention_applied",
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("execution", sa.Integer(), nullable=False),
        sa.Column("log", sa.Integer(), nullable=False),
        sa.Column("metric", sa.Integer(), nullable=False),
        sa.Column("applied_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("environment_id"),
    )
    op.create_table(
        "retention_failures",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("failed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
