"""What a POP is, what it knows of the other one, what waits to be sent, and which write every entry is at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001_replication"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "replication_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("role_since", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("stream_id", sa.Text(), nullable=True),
        sa.Column("head_rev", sa.BigInteger(), nullable=False),
        sa.Column("enlisted", sa.Boolean(), nullable=False),
        sa.Column("reseed_from", sa.Text(), nullable=True),
        sa.Column("reseed_after", sa.Text(), server_default="", nullable=False),
        sa.Column("former_epoch", sa.BigInteger(), nullable=True),
        sa.Column("former_stream_id", sa.Text(), nullable=True),
        sa.Column("promoted_complete_rev", sa.BigInteger(), nullable=True),
        sa.Column("promoted_from_rev", sa.BigInteger(), nullable=True),
        sa.Column("buckets", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "replication_peer",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pop", sa.Text(), nullable=True),
        sa.Column("heard_at", sa.BigInteger(), nullable=True),
        sa.Column("acked_at", sa.BigInteger(), nullable=True),
        sa.Column("head_rev", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("depth", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("complete_rev", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("applied_max_rev", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=True),
        sa.Column("tokens_digest", sa.Text(), nullable=True),
        sa.Column("compared_at", sa.BigInteger(), nullable=True),
        sa.Column("mismatches", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_error_at", sa.BigInteger(), nullable=True),
        sa.Column("audit_head", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "replication_queue",
        sa.Column("rev", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("quarantined_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("raw_payload", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("rev"),
    )
    op.create_index("ix_replication_queue_entry_id", "replication_queue", ["entry_id"], unique=True)
    op.create_index(
        "ix_replication_queue_sendable",
        "replication_queue",
        ["rev", "size"],
        sqlite_where=sa.text("quarantined_at IS NULL"),
        postgresql_where=sa.text("quarantined_at IS NULL"),
    )
    op.create_index(
        "ix_replication_queue_quarantined",
        "replication_queue",
        ["rev"],
        sqlite_where=sa.text("quarantined_at IS NOT NULL"),
        postgresql_where=sa.text("quarantined_at IS NOT NULL"),
    )
    op.create_table(
        "replication_versions",
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("rev", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "replicated_tokens",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Text(), nullable=True),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("hash"),
    )
