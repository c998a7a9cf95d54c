"""Tables of alerts."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata

alert_rules = sa.Table(
    "alert_rules",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("environment_id", sa.Text, sa.ForeignKey("environments.id")),
    sa.Column("app_id", sa.Text, sa.ForeignKey("apps.id")),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("aggregation", sa.Text, nullable=False),
    sa.Column("comparison", sa.Text, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("window_s", sa.Integer, nullable=False),
    sa.Column("for_s", sa.Integer, nullable=False),
    sa.Column("on_no_data", sa.Text, nullable=False),
    sa.Column("outbound_connection_id", sa.Text, sa.ForeignKey("outbound_connections.id")),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Index("ix_alert_rules_place", "place", "name_key", unique=True),
    sa.Index("ix_alert_rules_environment_id", "environment_id"),
    sa.Index("ix_alert_rules_app_id", "app_id"),
    sa.Index("ix_alert_rules_outbound_connection_id", "outbound_connection_id"),
)
"""`place`: the environment, "" for none, within which names are unique. With `app_id`, `environment_id` is set too."""

alert_states = sa.Table(
    "alert_states",
    metadata,
    sa.Column("rule_id", sa.Text, sa.ForeignKey("alert_rules.id"), primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("since", sa.BigInteger),
    sa.Column("value", sa.Float),
    sa.Column("no_data_since", sa.BigInteger),
)
"""How rules are. A rule without a row is ok."""

alert_looks = sa.Table(
    "alert_looks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("looked_at", sa.BigInteger, nullable=False),
)
"""One row: up to when events were looked at."""

TABLES: tuple[str, ...] = ("alert_rules", "alert_states", "alert_looks")
