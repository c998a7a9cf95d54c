"""What waits to be sent, in the database: bounded, in order, shared by every process of a deployment.

When a kind has reached its bound the oldest of it go: the newest say how things are now, and the log has them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from clavitor_commercial.items import KINDS, Item, Kind
from clavitor_commercial.tables import spool, state
from clavitor_host.api import Database, Transaction, log

if TYPE_CHECKING:
    from clavitor_commercial.metrics import TelemetryMetrics

BOUNDS: dict[Kind, int] = {"alert": 10_000, "report": 1_440}
"""Most items of a kind that are kept; 1,440 reports are a day of minutes."""

_LOCK = "clavitor_commercial.spool"
_ERROR_LENGTH = 300


class Fares(NamedTuple):
    """How one kind fares. Times in µs since the epoch, None when that never happened or nothing waits."""

    spooled: int = 0
    oldest_at: int | None = None
    spooled_at: int | None = None
    delivered_at: int | None = None
    error: str | None = None
    error_at: int | None = None


class Spool:
    """The spool of one database. `arrived` is set when this process has put an item of the kind."""

    def __init__(self, db: Database, metrics: TelemetryMetrics) -> None:
        self.arrived: dict[Kind, asyncio.Event] = {kind: asyncio.Event() for kind in KINDS}
        self._db = db
        self._metrics = metrics

    async def put(self, items: Sequence[Item]) -> None:
        """Keep items, behind those that wait. One that waits already, by its id, is left as it is.

        Raises `StorageUnavailable`: then nothing is kept, or (`OutcomeUnknown`) it is not known; put them again.
        """
        kinds = {item.kind: item.at for item in items}
        dropped: dict[Kind, list[str]] = {}
        async with self._db.transaction() as tx:
            await tx.lock(_LOCK)
            last = await tx.fetch_val(sa.select(sa.func.max(spool.c.seq))) or 0
            rows = [{**item._asdict(), "seq": last + position} for position, item in enumerate(items, 1)]
            await tx.insert_many(spool, rows, upsert_on=("id",))
            for kind, at in sorted(kinds.items()):
                await _note(tx, kind, spooled_at=at)
                dropped[kind] = await _trim(tx, kind)
        for kind, ids in dropped.items():
            if ids:
                self._metrics.dropped(kind, "full", len(ids))
                log.warning(
                    "The telemetry spool is full: its oldest items are dropped",
                    kind=kind,
                    dropped=len(ids),
                    first_id=ids[0],
                    last_id=ids[-1],
                )
            self.arrived[kind].set()

    async def head(self, kind: Kind, limit: int) -> list[Item]:
        """Return the oldest items of a kind, in order."""
        query = sa.select(spool.c.kind, spool.c.id, spool.c.at, spool.c.body).where(spool.c.kind == kind)
        rows = await self._db.fetch_all(query.order_by(spool.c.seq).limit(limit))
        return [Item(*row.values()) for row in rows]

    async def settle(self, item: Item, at: int, error: str | None = None) -> None:
        """Let go of an item that the receiver has taken at `at` (µs), or has refused: `error` says how."""
        async with self._db.transaction() as tx:
            await tx.execute(sa.delete(spool).where(spool.c.id == item.id))
            if error is None:
                await _note(tx, item.kind, delivered_at=at, error=None, error_at=None)
            else:
                await _note(tx, item.kind, error=error[:_ERROR_LENGTH], error_at=at)

    async def failed(self, kind: Kind, at: int, error: str) -> None:
        """Note that an attempt failed at `at` (µs)."""
        async with self._db.transaction() as tx:
            await _note(tx, kind, error=error[:_ERROR_LENGTH], error_at=at)

    async def fares(self) -> dict[Kind, Fares]:
        """Return how each kind fares."""
        counts = sa.select(spool.c.kind, sa.func.count().label("spooled"), sa.func.min(spool.c.at).label("oldest_at"))
        waiting = {row["kind"]: dict(row) for row in await self._db.fetch_all(counts.group_by(spool.c.kind))}
        known = {row["kind"]: dict(row) for row in await self._db.fetch_all(sa.select(state))}
        found = {}
        for kind in KINDS:
            members = {**waiting.get(kind, {}), **known.get(kind, {})}
            members.pop("kind", None)
            found[kind] = Fares(**members)
        return found

    async def last_spooled_at(self, kind: Kind) -> int | None:
        """Return when the last item of a kind was put, in µs."""
        at: int | None = await self._db.fetch_val(sa.select(state.c.spooled_at).where(state.c.kind == kind))
        return at


async def _note(tx: Transaction, kind: Kind, **values: int | str | None) -> None:
    await tx.insert_many(state, [{"kind": kind, **values}], upsert_on=("kind",), update=tuple(values))


async def _trim(tx: Transaction, kind: Kind) -> list[str]:
    """Delete what is above the bound, oldest first; return the ids."""
    mine = spool.c.kind == kind
    excess = await tx.fetch_val(sa.select(sa.func.count()).select_from(spool).where(mine)) - BOUNDS[kind]
    if excess <= 0:
        return []
    oldest = sa.select(spool.c.id, spool.c.seq).where(mine).order_by(spool.c.seq).limit(excess)
    rows = await tx.fetch_all(oldest)
    await tx.execute(sa.delete(spool).where(mine, spool.c.seq <= rows[-1]["seq"]))
    return [row["id"] for row in rows]
