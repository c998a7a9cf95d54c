"""Tables of the default store: one a stream, and what their rows refer to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from clavitor_fleet.metadata import BigId, metadata
from clavitor_fleet.telemetry.columns import COLUMNS
from clavitor_fleet.telemetry.store import STREAMS, Stream

_TYPES: Final[Mapping[str, Any]] = {"text": sa.Text, "json": sa.Text, "integer": sa.BigInteger, "real": sa.Double}
_MEASURED: Final[Mapping[Stream, str]] = {"metrics": "name", "agent_events": "type"}
"""By what alert rules look rows up."""

telemetry_places = sa.Table(
    "telemetry_places",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("environment_id", sa.Text, nullable=False),
    sa.Column("app_id", sa.Text, nullable=False),
    sa.Index("ix_telemetry_places_app_id", "app_id", "environment_id", unique=True),
)
"""Where rows come from, so that each names an environment and an app by one small number. They outlive both."""

telemetry_retention = sa.Table(
    "telemetry_retention",
    metadata,
    sa.Column("environment_id", sa.Text, primary_key=True),
    sa.Column("execution", sa.Integer, nullable=False),
    sa.Column("log", sa.Integer, nullable=False),
    sa.Column("metric", sa.Integer, nullable=False),
)
"""The days that were applied last: what readers of every process go by."""

telemetry_batches = sa.Table(
    "telemetry_batches",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("batch", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("taken_at", sa.BigInteger, nullable=False),
    sa.Index("ix_telemetry_batches_agent_id", "agent_id", "stream", "batch", unique=True),
    sa.Index("ix_telemetry_batches_taken_at", "taken_at"),
)
"""Batches that agents named, so that none is kept twice. `digest`: of the body that brought it."""


def _rows_of(stream: Stream) -> sa.Table:
    name = f"telemetry_{stream}"
    columns = COLUMNS[stream].items()
    indexes = [sa.Index(f"ix_{name}_place_id", "place_id", "ts", "id")]
    if stream in _MEASURED:
        indexes.append(sa.Index(f"ix_{name}_{_MEASURED[stream]}", _MEASURED[stream], "ts"))
    return sa.Table(
        name,
        metadata,
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("place_id", sa.BigInteger, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False),
        *(sa.Column(column, _TYPES[kind], nullable=not required) for column, (kind, required) in columns),
        *indexes,
    )


ROWS: Final[Mapping[Stream, sa.Table]] = {stream: _rows_of(stream) for stream in STREAMS}
"""The rows of each stream. A row's `place_id` is no foreign key: places are never deleted."""

TABLES = (
    "telemetry_places",
    "telemetry_retention",
    "telemetry_batches",
    *(table.name for table in ROWS.values()),
)
