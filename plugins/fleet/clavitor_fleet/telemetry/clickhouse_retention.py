"""Makes ClickHouse's tables keep rows for as long as they should. Everything here blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from clavitor_fleet.telemetry.clickhouse_connection import Client, reason_of
from clavitor_fleet.telemetry.clickhouse_ttl import Days, Expression, applied_days, id_arrays, modify_ttl
from clavitor_fleet.telemetry.store import STREAMS, Stream
from clavitor_host.api import StorageUnavailable

_TABLES: Final = (
    "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() "
    "AND name IN {names:Array(String)}"
)


def applied(client: Client) -> dict[Stream, Days]:
    """Return what holds, by stream, as the tables say."""
    found = dict(client.query(_TABLES, parameters={"names": list(STREAMS)}).result_rows)
    days = {stream: applied_days(found.get(stream, "")) for stream in STREAMS}
    return {stream: known for stream, known in days.items() if known is not None}


def apply(client: Client, wanted: Mapping[Stream, Days]) -> None:
    """Have each of these tables keep rows for so long, unless it does.

    Raises StorageUnavailable that names the tables which could not be changed: those keep rows for as long as before.
    """
    before = applied(client)
    failures: dict[Stream, str] = {}
    for stream, days in wanted.items():
        if before.get(stream) != days:
            try:
                _change(client, stream, before.get(stream), days)
            except Exception as error:  # noqa: BLE001 - the other tables are tried all the same
                failures[stream] = reason_of(error)
    after = applied(client)
    for stream, days in wanted.items():
        if after.get(stream) != days:
            failures.setdefault(stream, "ClickHouse does not keep to what it accepted")
    if failures:
        named = "; ".join(f"{stream}: {why}" for stream, why in failures.items())
        raise StorageUnavailable(f"Retention was not applied to {named}.", code="telemetry_unavailable")


def _change(client: Client, stream: Stream, before: Days | None, days: Days) -> None:
    """Set the TTL of a table. ClickHouse goes through its rows when there are some that it concerns: to go through a
    table of a year for each new environment, which has no rows yet, would be dear."""
    statement = modify_ttl(stream, days)
    concerned = _has_rows(client, stream, before, days)
    client.command(
        statement.sql,
        parameters=dict(statement.parameters),
        settings={"materialize_ttl_after_modify": int(concerned)},
    )
    if not concerned and _has_rows(client, stream, before, days):  # they came meanwhile
        client.command(f"ALTER TABLE {stream} MATERIALIZE TTL")


def _has_rows(client: Client, stream: Stream, before: Days | None, days: Days) -> bool:
    """Return whether a table has rows of environments whose days change."""
    condition = Expression("1", {})
    if before is not None:
        ids = id_arrays(sorted({name for name, _ in before.items() ^ days.items()}))
        condition = Expression(f"has({ids.sql}, environment_id)", ids.parameters)
    query = f"SELECT 1 FROM {stream} WHERE {condition.sql} LIMIT 1"  # noqa: S608 - values are bound
    found = client.query(query, parameters=dict(condition.parameters))
    return bool(found.result_rows)
