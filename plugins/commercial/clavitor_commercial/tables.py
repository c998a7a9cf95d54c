"""The plugin's tables."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

spool = sa.Table(
    "telemetry_spool",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("ix_telemetry_spool_kind", "kind", "seq"),
)
"""What waits to be sent. `seq`: the order in which rows were committed, given under a lock; `at`: µs."""

state = sa.Table(
    "telemetry_state",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("spooled_at", sa.BigInteger),
    sa.Column("delivered_at", sa.BigInteger),
    sa.Column("error", sa.Text),
    sa.Column("error_at", sa.BigInteger),
)
"""How delivery fares, a row a kind: when the last item was put, when the last one was taken by the receiver (µs since
the epoch), and what went wrong since then."""
