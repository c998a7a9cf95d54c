"""What the default store reads: each by one statement, whatever the number of places and rules.

The rows of a place lie together in the order of time. A query that takes some rows of every place asks for them place
by place, so that the work is about what is found and never about how much is kept: PostgreSQL by a lateral join,
SQLite, which has none, by a subselect of row ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from clavitor_fleet.telemetry.columns import COLUMNS, LARGEST_REAL
from clavitor_fleet.telemetry.store import SOUGHT, Measurement, RetentionDays, Stream, Wanted
from clavitor_fleet.telemetry.tables import ROWS, telemetry_places, telemetry_retention

if TYPE_CHECKING:
    from clavitor_host.api import Database

DAY_US: Final = 86_400_000_000

_DAYS: Final = {"logs": telemetry_retention.c.log, "metrics": telemetry_retention.c.metric}


def newest(db: Database, wanted: Wanted, now: int) -> sa.Select[Any]:
    """Select one row more than a page of what is asked for, newest first: where it comes from, and its `size` in bytes
    of text. now: µs since the epoch."""
    table = ROWS[wanted.stream]
    places = telemetry_places
    inner = table.alias("inner_rows")
    chosen = sa.select(inner.c.id).where(
        inner.c.place_id == places.c.id,
        inner.c.ts >= _later(db, sa.literal(wanted.since, sa.BigInteger), _floor(wanted.stream, now)),
        inner.c.ts < wanted.until,
    )
    if wanted.agent_id is not None:
        chosen = chosen.where(inner.c.agent_id == wanted.agent_id)
    if wanted.value is not None:
        chosen = chosen.where(inner.c[SOUGHT[wanted.stream]] == wanted.value)
    if wanted.cursor is not None:
        ts, key = wanted.cursor
        chosen = chosen.where(inner.c.ts <= ts, (inner.c.ts < ts) | (inner.c.id < int(key)))
    chosen = chosen.order_by(inner.c.ts.desc(), inner.c.id.desc()).limit(wanted.limit + 1)
    columns = (table.c.id, table.c.ts, table.c.agent_id, _size(db, table, wanted.stream))
    query = (
        sa.select(places.c.environment_id, places.c.app_id, *columns)
        .select_from(_of_each_place(db, table, chosen))
        .order_by(table.c.ts.desc(), table.c.id.desc())
        .limit(wanted.limit + 1)
    )
    for column in ("environment_id", "app_id"):
        if getattr(wanted, column) is not None:
            query = query.where(places.c[column] == getattr(wanted, column))
    return query


def whole(stream: Stream, ids: Sequence[int]) -> sa.Select[Any]:
    """Select what rows are made of, in no order."""
    table = ROWS[stream]
    return sa.select(table.c.id, *(table.c[name] for name in COLUMNS[stream])).where(table.c.id.in_(ids))


def expired(db: Database, stream: Stream, now: int, limit: int) -> sa.Select[Any]:
    """Select the ids of some rows whose time is over, oldest first in each place."""
    table = ROWS[stream]
    inner = table.alias("inner_rows")
    chosen = (
        sa.select(inner.c.id)
        .where(inner.c.place_id == telemetry_places.c.id, inner.c.ts < _floor(stream, now))
        .order_by(inner.c.ts)
        .limit(limit)
    )
    return sa.select(table.c.id).select_from(_of_each_place(db, table, chosen)).limit(limit)


def measured(asked: Sequence[tuple[int, Measurement]], now: int) -> sa.Select[Any]:
    """Select the number and the value of each measurement; all are of one kind."""
    kind = asked[0][1].kind
    stream: Stream = "metrics" if kind == "metric" else "agent_events"
    table = ROWS[stream]
    name, value = (table.c.name, table.c.value) if kind == "metric" else (table.c.type, sa.literal(1.0, sa.Double))
    rules = _rules(asked)
    rows = (
        sa.select(table.c.id, table.c.place_id, table.c.ts, value.label("value"))
        .where(name == rules.c.name, table.c.ts >= rules.c.since, table.c.ts < rules.c.until)
        .correlate(rules)
        .offset(0)  # looked up first, by name and time; then each row's place
        .subquery("rows")
    )
    found = (
        sa.select()
        .select_from(rows.join(telemetry_places, telemetry_places.c.id == rows.c.place_id).outerjoin(*_RETENTION))
        .where(
            rows.c.ts >= _floor(stream, now),
            rules.c.environment_id.is_(None) | (telemetry_places.c.environment_id == rules.c.environment_id),
            rules.c.app_id.is_(None) | (telemetry_places.c.app_id == rules.c.app_id),
        )
        .correlate(rules)
    )
    count = sa.cast(sa.func.count(), sa.Double)
    size = sa.func.abs(rows.c.value)
    aggregates = {each: getattr(sa.func, each)(rows.c.value) for each in ("min", "max")}
    for each in ("avg", "sum"):  # computed whatever is asked for, and PostgreSQL refuses the statement if one overflows
        fitting = getattr(sa.func, each)(sa.case((size <= LARGEST_REAL, rows.c.value)))
        aggregates[each] = sa.case((sa.func.max(size) <= LARGEST_REAL, fitting))
    chosen = sa.case(aggregates, value=rules.c.aggregation, else_=count)
    newest_value = found.add_columns(rows.c.value).order_by(rows.c.ts.desc(), rows.c.id.desc()).limit(1)
    return sa.select(
        rules.c.number,
        sa.case(
            (rules.c.aggregation == "last", newest_value.scalar_subquery()),
            else_=found.add_columns(chosen).scalar_subquery(),
        ).label("value"),
    )


def retention_rows(retention: dict[str, RetentionDays]) -> list[dict[str, Any]]:
    """Return the rows of `telemetry_retention`, in the order in which every process writes them."""
    return [{"environment_id": one, **retention[one]._asdict()} for one in sorted(retention)]


_RETENTION: Final = (telemetry_retention, telemetry_retention.c.environment_id == telemetry_places.c.environment_id)


def _floor(stream: Stream, now: int) -> sa.ColumnElement[int]:
    """Return the time before which rows of the place at hand are expired."""
    days = _DAYS.get(stream, telemetry_retention.c.execution)
    return sa.literal(now, sa.BigInteger) - sa.func.coalesce(days, 1) * sa.literal(DAY_US, sa.BigInteger)


def _size(db: Database, table: sa.Table, stream: Stream) -> sa.Label[int]:
    texts = [table.c[name] for name, column in COLUMNS[stream].items() if column.kind in ("text", "json")]
    if db.dialect == "sqlite":
        sizes: list[sa.Function[int]] = [sa.func.length(sa.cast(text, sa.LargeBinary)) for text in texts]
    else:
        sizes = [sa.func.octet_length(text) for text in texts]
    return sum((sa.func.coalesce(size, 0) for size in sizes), sa.literal(0, sa.Integer)).label("size")


def _later(db: Database, one: sa.ColumnElement[int], other: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return (sa.func.max if db.dialect == "sqlite" else sa.func.greatest)(one, other)


def _of_each_place(db: Database, table: sa.Table, chosen: sa.Select[Any]) -> sa.FromClause:
    places = telemetry_places.outerjoin(*_RETENTION)
    chosen = chosen.correlate(telemetry_places, telemetry_retention)
    if db.dialect == "sqlite":
        return places.join(table, table.c.id.in_(chosen))
    ids = chosen.lateral("chosen")
    return places.join(ids, sa.true()).join(table, table.c.id == ids.c.id)


def _rules(asked: Sequence[tuple[int, Measurement]]) -> sa.CTE:
    columns = (
        sa.column("number", sa.Integer),
        sa.column("name", sa.Text),
        sa.column("environment_id", sa.Text),
        sa.column("app_id", sa.Text),
        sa.column("since", sa.BigInteger),
        sa.column("until", sa.BigInteger),
        sa.column("aggregation", sa.Text),
    )
    rows = [
        (number, one.name, one.environment_id, one.app_id, one.since, one.until, one.aggregation)
        for number, one in asked
    ]
    return sa.values(*columns, name="rules").data(rows).cte("rules")
