"""Tables of outbound connections, of what waits for them, and of what waits for the operator."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import BigId, metadata

outbound_connections = sa.Table(
    "outbound_connections",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failing_since", sa.BigInteger),
    sa.Column("next_attempt_at", sa.BigInteger),
    sa.Column("last_error", sa.Text),
    sa.Column("last_delivered_at", sa.BigInteger),
    sa.Index("ix_outbound_connections_name_key", "name_key", unique=True),
)
"""`secret`: the key of the signatures, as it is: signing needs it. `failures`: how many there were in a row."""

outbound_deliveries = sa.Table(
    "outbound_deliveries",
    metadata,
    sa.Column("seq", BigId, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("connection_id", sa.Text, sa.ForeignKey("outbound_connections.id"), nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("attempted_at", sa.BigInteger),
    sa.Column("settled_at", sa.BigInteger),
    sa.Index("ix_outbound_deliveries_connection_id", "connection_id", "state", "seq"),
)
"""`seq`: the order in which they were committed, given under a lock. `body`: emptied once it need not be sent."""

operator_notices = sa.Table(
    "operator_notices",
    metadata,
    sa.Column("seq", BigId, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
)
"""Alerts to the operator that are still to be raised. `seq`: their order; SQLite may give that of a row that is
gone again. `id`: of no other notice, ever. `details`: a JSON object."""

TABLES: tuple[str, ...] = ("outbound_connections", "outbound_deliveries", "operator_notices")
