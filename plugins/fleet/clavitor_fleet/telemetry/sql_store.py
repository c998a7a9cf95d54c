"""The default store: telemetry in the vault's own database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from clavitor_fleet.telemetry import sql_queries as queries
from clavitor_fleet.telemetry.store import (
    STREAMS,
    BatchKey,
    Found,
    Measurement,
    Origin,
    Retention,
    RetentionDays,
    Stream,
    Wanted,
    fitting,
    key_reused,
)
from clavitor_fleet.telemetry.tables import ROWS, telemetry_batches, telemetry_places, telemetry_retention
from clavitor_host.api import invalid_field

if TYPE_CHECKING:
    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_host.api import Host, Row, Transaction

LANES: Final = {"sqlite": 1, "postgresql": 4}
"""Transactions of telemetry that a process has open at once: a write to the vault waits for no more than these."""
EXPIRE_ROWS: Final[Mapping[Stream, int]] = {**dict.fromkeys(STREAMS, 500), "logs": 200, "route_diagrams": 20}
"""Most rows that one transaction deletes: fewer where a row may be large."""
MEASURE_TOGETHER: Final = 200
"""Measurements in a statement."""
LOCK = "clavitor_fleet.telemetry_retention"

_CLAIM = (
    "INSERT INTO telemetry_batches (agent_id, stream, batch, digest, taken_at)"
    " VALUES (:agent_id, :stream, :batch, :digest, :taken_at) ON CONFLICT DO NOTHING"
)
_DIGEST = sa.select(telemetry_batches.c.digest).where(
    *(telemetry_batches.c[name] == sa.bindparam(name) for name in ("agent_id", "stream", "batch"))
)
_ALONG_INDEXES = "SELECT set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)"
"""How much of a place lies in a time that depends on its retention, PostgreSQL cannot know; it supposes so little that
it would rather gather and sort all of it."""
_KNOWN_PLACE = sa.select(telemetry_places.c.id).where(
    telemetry_places.c.app_id == sa.bindparam("app_id"),
    telemetry_places.c.environment_id == sa.bindparam("environment_id"),
)


class SqlStore:
    """One per app. Every process may use it on the same database at the same time."""

    name = "database"

    def __init__(self, host: Host, metrics: FleetMetrics) -> None:
        self._host = host
        self._expired = metrics.telemetry_expired
        self._lanes = asyncio.Semaphore(LANES[host.db.dialect])
        self._places: dict[tuple[str, str], int] = {}
        self._next = 0

    async def start(self) -> None:
        """Nothing to prepare: the database is open."""

    async def stop(self) -> None:
        """Nothing to let go of."""

    async def insert(
        self, stream: Stream, origin: Origin, rows: Sequence[Mapping[str, Any]], batch: BatchKey | None = None
    ) -> bool:
        if not rows:
            return False
        where = (origin.environment_id, origin.app_id)
        async with self._lanes:
            async with self._host.db.transaction() as tx:
                if batch is not None and not await self._claim(tx, stream, origin.agent_id, batch):
                    return True
                place = self._places.get(where) or await _place(tx, origin)
                of = {"place_id": place, "agent_id": origin.agent_id}
                await tx.insert_many(ROWS[stream], [{**of, **row} for row in rows])
            self._places[where] = place
        return False

    async def find(self, wanted: Wanted) -> Found:
        if wanted.cursor is not None and not _is_row_id(wanted.cursor[1]):
            raise invalid_field("cursor", "`next_cursor` of the page before")
        query = queries.newest(self._host.db, wanted, self._host.clock.now_us())
        found = await self._read(query)
        page = found[: wanted.limit]
        page = page[: fitting([row["size"] for row in page])]
        whole = queries.whole(wanted.stream, [row["id"] for row in page])
        known = {row["id"]: row for row in await self._host.db.fetch_all(whole)} if page else {}
        where = ("ts", "environment_id", "app_id", "agent_id")
        rows = [
            {**{name: row[name] for name in where}, **known[row["id"]], "id": str(row["id"])}
            for row in page
            if row["id"] in known
        ]
        last = page[-1] if len(found) > len(page) else None
        return Found(rows, None if last is None else (last["ts"], str(last["id"])))

    async def measure(self, asked: Sequence[Measurement]) -> Sequence[float | None]:
        values: list[float | None] = [None] * len(asked)
        now = self._host.clock.now_us()
        for kind in ("metric", "event"):
            mine = [(number, one) for number, one in enumerate(asked) if one.kind == kind]
            for first in range(0, len(mine), MEASURE_TOGETHER):
                query = queries.measured(mine[first : first + MEASURE_TOGETHER], now)
                for row in await self._read(query):
                    values[row["number"]] = None if row["value"] is None else float(row["value"])
        return values

    async def apply_retention(self, retention: Retention) -> None:
        wanted = {environment: days.clamped() for environment, days in retention.items()}
        if await self._applied() == wanted:
            return
        async with self._host.db.transaction() as tx:
            await tx.lock(LOCK)
            gone = telemetry_retention.c.environment_id.not_in(sorted(wanted))
            await tx.execute(sa.delete(telemetry_retention).where(gone))
            await tx.insert_many(
                telemetry_retention,
                queries.retention_rows(wanted),
                upsert_on=("environment_id",),
                update=RetentionDays._fields,
            )

    async def expire(self) -> bool:
        now = self._host.clock.now_us()
        for step in range(len(STREAMS)):
            number = (self._next + step) % len(STREAMS)
            if await self._expire(STREAMS[number], now):
                self._next = number
                return True
        return await self._forget_batches(now - queries.DAY_US)

    async def _expire(self, stream: Stream, now: int) -> int:
        """Delete what is found: the search holds up nobody, the transaction is short."""
        table, limit = ROWS[stream], EXPIRE_ROWS[stream]
        found = await self._read(queries.expired(self._host.db, stream, now, limit))
        if not found:
            return 0
        ids = [row["id"] for row in found]
        deleted = await self._host.db.execute(sa.delete(table).where(table.c.id.in_(ids)))
        self._expired.labels(stream).inc(deleted)
        return len(ids)

    async def _read(self, query: sa.Select[Any]) -> list[Row]:
        """Return the rows of a query that goes along an index and stops early."""
        if self._host.db.dialect == "sqlite":
            return await self._host.db.fetch_all(query)
        async with self._host.db.transaction() as tx:
            await tx.execute(_ALONG_INDEXES)
            return await tx.fetch_all(query)

    async def _forget_batches(self, before: int) -> bool:
        old = sa.select(telemetry_batches.c.id).where(telemetry_batches.c.taken_at < before).limit(500)
        return await self._host.db.execute(sa.delete(telemetry_batches).where(telemetry_batches.c.id.in_(old))) > 0

    async def _claim(self, tx: Transaction, stream: Stream, agent_id: str, batch: BatchKey) -> bool:
        """Take the name of a batch; return False when it was kept before. Raises `key_reused`."""
        key = {"agent_id": agent_id, "stream": stream, "batch": batch.name}
        values = {**key, "digest": batch.digest, "taken_at": self._host.clock.now_us()}
        while not await tx.execute(_CLAIM, values):
            known = await tx.fetch_val(_DIGEST, key)
            if known == batch.digest:
                return False
            if known is not None:  # else it was forgotten this moment
                raise key_reused()
        return True

    async def _applied(self) -> Retention:
        rows = await self._host.db.fetch_all(sa.select(*telemetry_retention.c))
        return {row["environment_id"]: RetentionDays(row["execution"], row["log"], row["metric"]) for row in rows}


async def _place(tx: Transaction, origin: Origin) -> int:
    values = {"environment_id": origin.environment_id, "app_id": origin.app_id}
    known = await tx.fetch_val(_KNOWN_PLACE, values)
    if known is None:
        await tx.insert_many(telemetry_places, [values], upsert_on=("app_id", "environment_id"))
        known = await tx.fetch_val(_KNOWN_PLACE, values)
    return int(known)


def _is_row_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
