"""Tables of the audit log."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_host.storage.tables import BigId, metadata

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("entry_id", sa.Text),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("prev_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("ix_audit_log_entry_id", "entry_id", "id"),
)

audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("audit_id", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)
"""One row (id 1): the last row of the chain. Locked by whoever appends."""

audit_checkpoints = sa.Table(
    "audit_checkpoints",
    metadata,
    sa.Column("up_to_id", BigId, primary_key=True, autoincrement=False),
    sa.Column("up_to_hash", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
)
"""What retention dropped: the chain up to and including `up_to_id`, signed with the node's Ed25519 key."""
