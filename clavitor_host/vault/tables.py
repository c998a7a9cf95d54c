"""Tables of the vault."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_host.storage.tables import BigId, metadata

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("entry_id", sa.Text, nullable=False),
    sa.Column("encrypted_data", sa.Text),
    sa.Column("environment_id", sa.Text),
    sa.Column("rev", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("deleted_at", sa.BigInteger),
    sa.Column("replicated_at", sa.BigInteger),
    sa.Column("replication_dirty", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_entries_entry_id", "entry_id", unique=True),
    sa.Index("ix_entries_rev", "rev", unique=True),
)
"""`encrypted_data` is NULL in a tombstone (`deleted_at` set). The two replication columns and their index are the
replication design's own ("Database Schema Addition").

Two partial indexes are made by the schema history alone: `ix_entries_environment` (environment_id, rev) of entries
with an environment, and `idx_entries_dirty` of dirty ones. Their conditions here would load both dialects at start."""

entry_departures = sa.Table(
    "entry_departures",
    metadata,
    sa.Column("environment_id", sa.Text, primary_key=True),
    sa.Column("entry_id", sa.Text, primary_key=True),
    sa.Column("rev", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("departed_at", sa.BigInteger, nullable=False),
    sa.Index("ix_entry_departures_rev", "environment_id", "rev", unique=True),
)
"""That an entry, or its tombstone, left an environment: the last time it did, with the rev and time of that write.
`created_at`: of the entry that was there. A departure counts only while the entry is elsewhere; coming back leaves the
row as it is, so that a write which moves nothing, or creates, costs nothing here."""

vault_head = sa.Table(
    "vault_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("rev", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("live_entries", sa.BigInteger, nullable=False),
)
"""One row (id 1): the last rev given, the last `updated_at` given, and how many entries live. Every write locks it
first, so revs are committed in order."""
