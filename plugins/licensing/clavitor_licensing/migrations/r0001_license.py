"""The license that is installed, and what all processes agree on about it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001_license"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "license",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("license_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("installed_at", sa.BigInteger(), nullable=False),
        sa.Column("installed_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("last_validated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.create_table(
        "license_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("clock_stopped", sa.Boolean(), nullable=False),
        sa.Column("failed_code", sa.Text(), nullable=True),
        sa.Column("rejected_code", sa.Text(), nullable=True),
        sa.Column("rejected_message", sa.Text(), nullable=True),
        sa.Column("rejected_source", sa.Text(), nullable=True),
        sa.Column("rejected_at", sa.BigInteger(), nullable=True),
        sa.Column("rejected_digest", sa.Text(), nullable=True),
        sa.Column("rejected_node", sa.Text(), nullable=True),
        sa.Column("boots", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    state = sa.table(
        "license_state",
        sa.column("id", sa.Integer()),
        sa.column("version", sa.BigInteger()),
        sa.column("reason", sa.Text()),
        sa.column("seen_at", sa.BigInteger()),
        sa.column("clock_stopped", sa.Boolean()),
        sa.column("boots", sa.Text()),
    )
    row = {"id": 1, "version": 0, "reason": "boot", "seen_at": 0, "clock_stopped": False, "boots": ""}
    op.bulk_insert(state, [row])
