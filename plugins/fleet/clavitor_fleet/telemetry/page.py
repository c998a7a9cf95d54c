"""A page of rows as JSON: what is kept as JSON text goes out as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from clavitor_fleet.telemetry.columns import COLUMNS
from clavitor_fleet.telemetry.store import PAGE_BYTES, Found, Stream

_PLACE = ("id", "ts", "environment_id", "app_id", "agent_id")


def page_of_rows(stream: Stream, found: Found) -> bytes:
    """Return the body of an answer. It ends after `PAGE_BYTES`: text may be six times as long as JSON."""
    columns = COLUMNS[stream]
    members = [(name, False) for name in _PLACE] + [(name, column.kind == "json") for name, column in columns.items()]
    rows: list[bytes] = []
    left, last = PAGE_BYTES, found.cursor
    for row in found.rows:
        text = _row(members, row)
        left -= len(text)
        if left < 0 and rows:
            before = found.rows[len(rows) - 1]
            last = (before["ts"], before["id"])
            break
        rows.append(text)
    cursor = None if last is None else f"{last[0]}.{last[1]}"
    return b'{"rows":[%b],"next_cursor":%b}' % (b",".join(rows), to_json(cursor))


def _row(members: list[tuple[str, bool]], row: Mapping[str, Any]) -> bytes:
    parts = []
    for name, is_json in members:
        value = row[name]
        text = value.encode() if is_json and value is not None else to_json(value)
        parts.append(b'"%b":%b' % (name.encode(), text))
    return b"{%b}" % b",".join(parts)
