"""The tables in ClickHouse: one per stream, in the order environment, app, time; a partition a day.

The id of a row is its batch's (24 hex digits) and its place in it (4). That of a named batch is made of its name (18)
and its body (6), so that it is the same each time it is sent; of rows that are alike in the sort key the engine keeps
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from clavitor_fleet.telemetry.columns import COLUMNS, Kind
from clavitor_fleet.telemetry.store import STREAMS, Stream

BATCH_DIGITS: Final = 24
NAME_DIGITS: Final = 18
_TYPES: Final[Mapping[Kind, str]] = {"text": "String", "json": "String", "integer": "Int64", "real": "Float64"}
_FEW_VALUES: Final = frozenset({"level", "logger", "name", "processor_id", "route", "status", "type", "version"})
_CODECS: Final = {"ts": " CODEC(Delta, ZSTD)", "message": " CODEC(ZSTD)", "diagram": " CODEC(ZSTD)"}
_PLACE: Final = {
    "environment_id": "LowCardinality(String)",
    "app_id": "LowCardinality(String)",
    "agent_id": "LowCardinality(String)",
    "ts": "DateTime64(6, 'UTC')",
    "id": "String",
}
"""What every table begins with."""


def types(stream: Stream) -> Mapping[str, str]:
    """Return the type of each column of a table, in their order."""
    found = dict(_PLACE)
    for name, column in COLUMNS[stream].items():
        kind = _TYPES[column.kind]
        kind = kind if column.required else f"Nullable({kind})"
        found[name] = f"LowCardinality({kind})" if name in _FEW_VALUES else kind
    return found


def create_tables() -> Sequence[str]:
    """Return the statements that make what is missing.

    An insert that was answered is on disk (fsync), and one that is sent again with the same token within the last
    thousand is taken once. Expired rows go from the disk within the hour.
    """
    return [_create_table(stream) for stream in STREAMS]


def _create_table(stream: Stream) -> str:
    named = ", ".join(f"{name} {kind}{_CODECS.get(name, '')}" for name, kind in types(stream).items())
    return (
        f"CREATE TABLE IF NOT EXISTS {stream} ({named}, "
        f"INDEX batches left(id, {NAME_DIGITS}) TYPE bloom_filter GRANULARITY 1) "
        "ENGINE = ReplacingMergeTree PARTITION BY toDate(ts) ORDER BY (environment_id, app_id, ts, id) "
        "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000, "
        "merge_with_ttl_timeout = 3600"
    )
