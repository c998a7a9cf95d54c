"""Where entries have been, for readers of one environment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0002_entry_departures"
down_revision = "r0001_initial"


def upgrade() -> None:
    """Create the table. Moves made before it are not known."""
    op.create_table(
        "entry_departures",
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("rev", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("departed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "entry_id"),
    )
    op.create_index("ix_entry_departures_rev", "entry_departures", ["environment_id", "rev"], unique=True)
