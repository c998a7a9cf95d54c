"""How long ClickHouse keeps rows: one TTL expression a table, written and read back.

Everything is in one expression: of overlapping TTL rules the shortest would win. Days are 1 to 3650, for an interval of
0 deletes everything. Environments that are not named are kept for a day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from clavitor_fleet.telemetry.store import Retention, Stream

DEFAULT_DAYS: Final = 1
MAX_DAYS: Final = 3650
_PARAMETER_IDS: Final = 2500
"""Ids in one parameter: ClickHouse takes 128 KiB a parameter over HTTP."""
_EXPRESSION: Final = re.compile(r" TTL toDateTime\(ts\) \+ toIntervalDay\((.*)\) SETTINGS ")
_TEXTS: Final = re.compile(r"\[('[^\]]*)\]")
_NUMBERS: Final = re.compile(r"\[(\d[^\]]*)\]")

Days = Mapping[str, int]
"""Days by environment, without those that have the default."""


class Expression(NamedTuple):
    """SQL with the parameters that it needs."""

    sql: str
    parameters: Mapping[str, Any]


def days_of(retention: Retention, stream: Stream) -> Days:
    """Return the days to apply to a table."""
    clamped = {name: min(max(days.of(stream), DEFAULT_DAYS), MAX_DAYS) for name, days in sorted(retention.items())}
    return {name: days for name, days in clamped.items() if days != DEFAULT_DAYS}


def days_sql(days: Days) -> Expression:
    """Return the days of a row's environment as SQL."""
    if not days:
        return Expression(f"{DEFAULT_DAYS}", {})
    names = id_arrays(list(days))
    numbers = _arrays("days", "UInt16", list(days.values()))
    return Expression(
        f"transform(environment_id, {names.sql}, {numbers.sql}, {DEFAULT_DAYS})",
        {**names.parameters, **numbers.parameters},
    )


def id_arrays(ids: Sequence[str]) -> Expression:
    """Return ids as one array, in parameters of an acceptable size."""
    return _arrays("names", "String", ids)


def modify_ttl(stream: Stream, days: Days) -> Expression:
    """Return the statement that makes a table keep rows for `days`."""
    value = days_sql(days)
    return Expression(f"ALTER TABLE {stream} MODIFY TTL toDateTime(ts) + toIntervalDay({value.sql})", value.parameters)


def applied_days(create_table_query: str) -> Days | None:
    """Return the days that a table is kept for, None when it has no TTL, or not one of ours."""
    found = _EXPRESSION.search(create_table_query)
    if found is None:
        return None
    value = found[1]
    if value == f"{DEFAULT_DAYS}":
        return {}
    names = [name for array in _TEXTS.findall(value) for name in re.findall(r"'([^']*)'", array)]
    numbers = [int(number) for array in _NUMBERS.findall(value) for number in array.split(", ")]
    if not value.startswith("transform(environment_id, ") or len(names) != len(numbers):
        return None
    return dict(zip(names, numbers, strict=True))


def _arrays(name: str, kind: str, values: Sequence[Any]) -> Expression:
    parts = [values[start : start + _PARAMETER_IDS] for start in range(0, len(values), _PARAMETER_IDS)]
    arrays = [f"{{{name}{index}:Array({kind})}}" for index in range(len(parts))]
    sql = arrays[0] if len(arrays) == 1 else f"arrayConcat({', '.join(arrays)})"
    return Expression(sql, {f"{name}{index}": list(part) for index, part in enumerate(parts)})
