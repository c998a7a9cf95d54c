"""How rows get into ClickHouse. Everything here blocks."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from clavitor_fleet.telemetry.clickhouse_batches import Batch, Outcome
from clavitor_fleet.telemetry.clickhouse_connection import Client
from clavitor_fleet.telemetry.clickhouse_schema import BATCH_DIGITS, NAME_DIGITS, types
from clavitor_fleet.telemetry.clickhouse_ttl import DEFAULT_DAYS, Days
from clavitor_fleet.telemetry.store import BatchKey, Origin, Stream

DAY_US: Final = 86_400_000_000


class _Row(NamedTuple):
    batch: Batch
    id: str
    values: Mapping[str, Any]


def batch_id(agent_id: str, key: BatchKey | None, now_us: int) -> str:
    """Return what the ids of a batch's rows begin with: always the same for one that has a name."""
    if key is None:
        return f"{now_us:013x}"[:13] + secrets.token_hex(6)[: BATCH_DIGITS - 13]
    name = hashlib.blake2b(f"{agent_id}\0{key.name}".encode(), digest_size=NAME_DIGITS // 2).hexdigest()
    return name + key.digest[: BATCH_DIGITS - NAME_DIGITS]


def insert(
    client: Client, stream: Stream, batches: Sequence[Batch], days: Days | None, now_us: int
) -> Sequence[Outcome]:
    """Keep what of some batches is not there yet, in one insert; return what became of each.

    Of a named batch those rows are left out that were kept before: also when only a part of it had been, because an
    insert that reaches over two days is not one whole. A batch is left out when another body has its name. days: for
    how long rows are kept, None when that is not known yet. Rows whose time is over already are left out: each of their
    days would be a part on the disk.
    """
    living = [_living(batch, days, now_us) for batch in batches]
    known = _known_ids(client, stream, [row for of in living for row in of if row.batch.named], now_us)
    outcomes, rows = _sorted_out(batches, living, known)
    if not rows:
        return outcomes
    kinds = types(stream)
    data: list[Sequence[Any]] = [[getattr(row.batch.origin, name) for row in rows] for name in Origin._fields[:2]]
    data.append([row.values.get("agent_id", row.batch.origin.agent_id) for row in rows])
    data.append([row.values["ts"] for row in rows])
    data.append([row.id for row in rows])
    data += [[row.values[name] for row in rows] for name in list(kinds)[len(data) :]]
    client.insert(
        stream,
        data,
        column_names=list(kinds),
        column_type_names=list(kinds.values()),
        column_oriented=True,
        settings={"insert_deduplication_token": secrets.token_hex(16), "max_partitions_per_insert_block": 0},
    )
    return outcomes


def _living(batch: Batch, days: Days | None, now_us: int) -> list[_Row]:
    """Return the rows of a batch whose time is not over."""
    since = 0 if days is None else now_us - days.get(batch.origin.environment_id, DEFAULT_DAYS) * DAY_US
    return [
        _Row(batch, f"{batch.id}{place:04x}", values)
        for place, values in enumerate(batch.rows)
        if values["ts"] >= since
    ]


def _sorted_out(
    batches: Sequence[Batch], living: Sequence[Sequence[_Row]], known: set[str]
) -> tuple[list[Outcome], list[_Row]]:
    """Return what becomes of each batch, and the rows that are not known. A name may be among the batches twice."""
    bodies: dict[str, set[str]] = {}
    for id in known:
        bodies.setdefault(id[:NAME_DIGITS], set()).add(id[:BATCH_DIGITS])
    outcomes: list[Outcome] = []
    new: list[_Row] = []
    for batch, rows in zip(batches, living, strict=True):
        if not batch.named:
            outcomes.append("kept")
            new += rows
            continue
        if batch.id not in bodies.setdefault(batch.id[:NAME_DIGITS], {batch.id}):
            outcomes.append("reused")
            continue
        missing = [row for row in rows if row.id not in known]
        outcomes.append("kept" if missing or not rows else "replayed")
        known |= {row.id for row in missing}
        new += missing
    return outcomes, new


def _known_ids(client: Client, stream: Stream, rows: Sequence[_Row], now_us: int) -> set[str]:
    """Return which ids of named rows are there."""
    if not rows:
        return set()
    origins = {row.batch.origin for row in rows}
    found = client.query(
        f"SELECT id FROM {stream} WHERE left(id, {NAME_DIGITS}) IN {{batches:Array(String)}} "  # noqa: S608 - bound
        "AND environment_id IN {environments:Array(String)} AND app_id IN {apps:Array(String)} "
        "AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')",
        parameters={
            "batches": sorted({row.batch.id[:NAME_DIGITS] for row in rows}),
            "environments": sorted({origin.environment_id for origin in origins}),
            "apps": sorted({origin.app_id for origin in origins}),
            "since": min(now_us - DAY_US, *(row.values["ts"] for row in rows)),
        },
    )
    return {row[0] for row in found.result_rows}
