"""How rows are found and measured in ClickHouse. Everything here blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from clavitor_fleet.telemetry.clickhouse_connection import Client
from clavitor_fleet.telemetry.clickhouse_schema import types
from clavitor_fleet.telemetry.clickhouse_ttl import DEFAULT_DAYS, Days, days_sql
from clavitor_fleet.telemetry.clickhouse_writing import DAY_US
from clavitor_fleet.telemetry.columns import COLUMNS, LARGEST_REAL
from clavitor_fleet.telemetry.store import SOUGHT, Found, Measurement, Stream, Wanted, fitting
from clavitor_host.api import invalid_field

_ROW_ID: Final = re.compile(r"[0-9a-f]{28}")
_LAST_TS: Final = 4_102_444_800_000_000
"""The year 2100, in µs: further than DateTime counts is further than any row."""
_RULES: Final = 100
"""Measurements of one query: its parameters are at most 128 KiB."""
_AGGREGATES: Final = {
    "avg": f"if(max(abs(value)) <= {LARGEST_REAL!r}, avg(value), nan)",
    "sum": f"if(max(abs(value)) <= {LARGEST_REAL!r}, sum(value), nan)",
    "min": "min(value)",
    "max": "max(value)",
    "last": "argMax(value, (ts, id))",
}


def find(client: Client, wanted: Wanted, days: Days | None, now_us: int) -> Found:
    """Return a page of rows. days: for how long rows are kept, None when that is not known yet."""
    conditions = ["ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')"]
    parameters: dict[str, Any] = {"limit": wanted.limit + 1}
    since = wanted.since
    for name in ("environment_id", "app_id", "agent_id"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"{name} = {{{name}:String}}")
            parameters[name] = value
    if wanted.value is not None:
        conditions.append(f"{SOUGHT[wanted.stream]} = {{value:String}}")
        parameters["value"] = wanted.value
    if days is not None and wanted.environment_id is not None:
        since = max(since, now_us - days.get(wanted.environment_id, DEFAULT_DAYS) * DAY_US)
    elif days is not None:
        since = max(since, now_us - max(days.values(), default=DEFAULT_DAYS) * DAY_US)
        kept = _kept(days, now_us)
        conditions.append(kept[0])
        parameters |= kept[1]
    parameters["since"] = _clamped(since)
    conditions.append("ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')")
    parameters["until"] = _clamped(wanted.until)
    if wanted.cursor is not None:
        ts, row_id = wanted.cursor
        if not _ROW_ID.fullmatch(row_id) or not 0 <= ts < _LAST_TS:
            raise invalid_field("cursor", "`next_cursor` of the page before")
        last = "fromUnixTimestamp64Micro({last_ts:Int64}, 'UTC')"
        conditions.append(f"ts <= {last} AND (ts, id) < ({last}, {{last_id:String}})")
        parameters |= {"last_ts": ts, "last_id": row_id}
    texts = [name for name, column in COLUMNS[wanted.stream].items() if column.kind in ("text", "json")]
    size = " + ".join(f"ifNull(length({name}), 0)" for name in texts)

    def select(names: str) -> Sequence[Sequence[Any]]:
        found = client.query(
            f"SELECT {names} FROM {wanted.stream} WHERE {' AND '.join(conditions)} "  # noqa: S608 - values are bound
            "ORDER BY ts DESC, id DESC LIMIT {limit:UInt32}",
            parameters=parameters,
            query_formats={"DateTime64*": "int"},
        )
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows

    found = select(f"ts, id, {size}")
    page = found[: wanted.limit]
    page = page[: fitting([row[2] for row in page])]
    if not page:
        return Found([], None)
    conditions += ["ts >= fromUnixTimestamp64Micro({first_ts:Int64}, 'UTC')", "id IN {ids:Array(String)}"]
    parameters |= {"first_ts": page[-1][0], "ids": [row[1] for row in page]}
    names = list(types(wanted.stream))
    rows = [dict(zip(names, row, strict=True)) for row in select(", ".join(names))]
    return Found(rows, (page[-1][0], page[-1][1]) if len(found) > len(page) else None)


def measure(
    client: Client, asked: Sequence[Measurement], days: Mapping[Stream, Days], now_us: int
) -> list[float | None]:
    """Return one value for each: one query for the metrics and one for the events, of a hundred measurements each.

    days: for how long rows are kept, of the streams where that is known.
    """
    values: list[float | None] = [0.0 if one.kind == "event" or one.aggregation == "count" else None for one in asked]
    streams: tuple[tuple[Stream, str], ...] = (("metrics", "metric"), ("agent_events", "event"))
    for stream, kind in streams:
        indexes = [index for index, one in enumerate(asked) if one.kind == kind]
        for start in range(0, len(indexes), _RULES):
            part = indexes[start : start + _RULES]
            _measure(client, stream, [(index, asked[index]) for index in part], days.get(stream), now_us, values)
    return values


def _measure(
    client: Client,
    stream: Stream,
    asked: Sequence[tuple[int, Measurement]],
    days: Days | None,
    now_us: int,
    values: list[float | None],
) -> None:
    """Put what was asked of one stream into `values`."""
    metrics = stream == "metrics"
    aggregates = ["count()", *_AGGREGATES.values()] if metrics else ["count()"]
    kept, parameters = ("1", {}) if days is None else _kept(days, now_us)
    name = "name" if metrics else "type"
    found = client.query(
        f"SELECT rule.1, {', '.join(aggregates)} FROM {stream} AS reported INNER JOIN "  # noqa: S608 - values are bound
        "(SELECT arrayJoin({rules:Array(Tuple(UInt32, String, String, String, Int64, Int64))}) AS rule, "
        f"rule.2 AS wanted_name) AS rules ON reported.{name} = rules.wanted_name "
        f"WHERE {name} IN {{names:Array(String)}} AND ts >= fromUnixTimestamp64Micro({{since:Int64}}, 'UTC') "
        "AND ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC') "
        "AND (rule.3 = '' OR environment_id = rule.3) AND (rule.4 = '' OR app_id = rule.4) "
        "AND toUnixTimestamp64Micro(ts) >= rule.5 AND toUnixTimestamp64Micro(ts) < rule.6 "
        f"AND {kept} GROUP BY rule.1",
        parameters={
            **parameters,
            "rules": [
                (index, one.name, one.environment_id or "", one.app_id or "", one.since, one.until)
                for index, one in asked
            ],
            "names": sorted({one.name for _, one in asked}),
            "since": _clamped(min(one.since for _, one in asked)),
            "until": _clamped(max(one.until for _, one in asked)),
        },
    )
    order = ["count", *_AGGREGATES]
    for index, *row in found.result_rows:
        column = order.index(dict(asked)[index].aggregation) if metrics else 0
        values[index] = float(row[column]) if math.isfinite(row[column]) else None


def _kept(days: Days, now_us: int) -> tuple[str, dict[str, Any]]:
    """Return the condition that a row's time is not over."""
    kept = days_sql(days)
    condition = f"toUnixTimestamp64Micro(ts) >= {{now:Int64}} - {DAY_US} * toInt64({kept.sql})"
    return condition, {**kept.parameters, "now": now_us}


def _clamped(ts: int) -> int:
    return min(max(ts, 0), _LAST_TS)
