"""The spool of alerts and reports, and how their delivery fares."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001_spool"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "telemetry_spool",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_telemetry_spool_kind", "telemetry_spool", ["kind", "seq"], unique=False)
    op.create_table(
        "telemetry_state",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spooled_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("kind"),
    )
