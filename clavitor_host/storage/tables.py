"""The host's one `MetaData`, and the table of leases. Every feature's `tables.py` adds to `metadata`."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A 64-bit integer primary key. On SQLite the type must be INTEGER, or the key is an index beside the table."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
"""Who may do exclusive work. `token` grows with every change of hands (fencing); `expires_at` in µs since the
epoch, 0 once released."""
