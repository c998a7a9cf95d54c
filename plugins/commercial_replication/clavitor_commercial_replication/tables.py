"""The plugin's tables. Times are µs since the epoch."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

state = sa.Table(
    "replication_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("role_since", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("stream_id", sa.Text),
    sa.Column("head_rev", sa.BigInteger, nullable=False),
    sa.Column("enlisted", sa.Boolean, nullable=False),
    sa.Column("reseed_from", sa.Text),
    sa.Column("reseed_after", sa.Text, nullable=False, server_default=""),
    sa.Column("former_epoch", sa.BigInteger),
    sa.Column("former_stream_id", sa.Text),
    sa.Column("promoted_complete_rev", sa.BigInteger),
    sa.Column("promoted_from_rev", sa.BigInteger),
    sa.Column("buckets", sa.LargeBinary, nullable=False),
)
"""One row (id 1), once a role is configured: see `models.State`. `buckets`: 256 hashes of 32 bytes. Whoever changes
it has locked the vault's head before."""

peer = sa.Table(
    "replication_peer",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pop", sa.Text),
    sa.Column("heard_at", sa.BigInteger),
    sa.Column("acked_at", sa.BigInteger),
    sa.Column("head_rev", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("depth", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("complete_rev", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("applied_max_rev", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("as_of", sa.BigInteger),
    sa.Column("tokens_digest", sa.Text),
    sa.Column("compared_at", sa.BigInteger),
    sa.Column("mismatches", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.Column("last_error_at", sa.BigInteger),
    sa.Column("audit_head", sa.Text),
)
"""One row (id 1), made with that of `replication_state`: see `models.Peer`."""

queue = sa.Table(
    "replication_queue",
    metadata,
    sa.Column("rev", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("entry_id", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("environment_id", sa.Text),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("queued_at", sa.BigInteger, nullable=False),
    sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("quarantined_at", sa.BigInteger),
    sa.Column("error", sa.Text),
    sa.Column("raw_payload", sa.Text),
    sa.Index("ix_replication_queue_entry_id", "entry_id", unique=True),
    sa.Index(
        "ix_replication_queue_sendable",
        "rev",
        "size",
        sqlite_where=sa.text("quarantined_at IS NULL"),
        postgresql_where=sa.text("quarantined_at IS NULL"),
    ),
    sa.Index(
        "ix_replication_queue_quarantined",
        "rev",
        sqlite_where=sa.text("quarantined_at IS NOT NULL"),
        postgresql_where=sa.text("quarantined_at IS NOT NULL"),
    ),
)
"""What the backup has not confirmed: one row an entry, replaced by a later write. `raw_payload`: the base64 text as it
was received, NULL for a delete; `size`: its length. `queued_at`: `updated_at` of the write. `quarantined_at`: the
backup refuses the entry for good (`error` says why); it is left alone until it is written again or requeued."""

versions = sa.Table(
    "replication_versions",
    metadata,
    sa.Column("entry_id", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("rev", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""Which write every entry, tombstones too, is at: see `models.Version`."""

tokens = sa.Table(
    "replicated_tokens",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("role", sa.Text),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("environment_id", sa.Text),
    sa.Column("agent_id", sa.Text),
    sa.Column("expires_at", sa.BigInteger),
)
"""On a backup: the tokens of the primary's clients."""

TABLES = ("replication_state", "replication_peer", "replication_queue", "replication_versions", "replicated_tokens")
