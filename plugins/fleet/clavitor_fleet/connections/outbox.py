"""What waits for outbound connections: put there in the transaction of what it tells of, so that both are kept or none.

Bounded: when too much waits for a connection, the oldest goes, since the newest says how things are now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.connections.history import forget_settled
from clavitor_fleet.connections.models import Delivery, DeliveryState
from clavitor_fleet.connections.tables import outbound_connections, outbound_deliveries
from clavitor_fleet.lists import Page
from clavitor_host.api import log, new_id

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction

WAITING: Final = "fleet.deliveries"
"""The signal that something waits to be sent."""
BOUND: Final = 1_000
"""Deliveries that wait for one connection at most."""

_LOCK = "clavitor_fleet.deliveries"
_COLUMNS = tuple(outbound_deliveries.c[name] for name in Delivery._fields)


class News(NamedTuple):
    """What is to be told over a connection. event: such as `alert.firing`. body: JSON values."""

    connection_id: str
    event: str
    body: Mapping[str, Any]


async def enqueue(host: Host, tx: Transaction, connection_id: str, event: str, body: Mapping[str, Any]) -> None:
    """Have one thing sent once `tx` is committed. See `enqueue_many`."""
    await enqueue_many(host, tx, [News(connection_id, event, body)])


async def enqueue_many(host: Host, tx: Transaction, news: Sequence[News]) -> None:
    """Have things sent once `tx` is committed, in this order over each connection; also over one that is disabled,
    when it is enabled again. What is for a connection that is not there is left out.

    Call it late, before the audit row: it takes a lock that is held to the end of the transaction.
    """
    if not news:
        return
    ids = sorted({one.connection_id for one in news})
    there = sa.select(outbound_connections.c.id).where(outbound_connections.c.id.in_(ids))
    there = there.order_by(outbound_connections.c.id).with_for_update(read=True, key_share=True)
    known = {row["id"] for row in await tx.fetch_all(there)}
    await tx.lock(_LOCK)
    last = await tx.fetch_val(sa.select(sa.func.max(outbound_deliveries.c.seq))) or 0
    now = host.clock.now_us()
    rows = [
        {
            "seq": seq,
            "id": new_id(host),
            "connection_id": one.connection_id,
            "event": one.event,
            "body": compact(one.body),
            "state": "waiting",
            "attempts": 0,
            "created_at": now,
        }
        for seq, one in enumerate((one for one in news if one.connection_id in known), last + 1)
    ]
    await tx.insert_many(outbound_deliveries, rows)
    await _trim(host, tx, sorted(known), now)
    await host.signals.send(tx, WAITING)


async def list_deliveries(
    host: Host, connection_id: str, page: Page, *, state: DeliveryState | None
) -> tuple[Sequence[Delivery], str | None]:
    """Return a page of a connection's deliveries, newest first, and the next cursor."""
    seq = outbound_deliveries.c.seq
    query = sa.select(seq, *_COLUMNS).where(outbound_deliveries.c.connection_id == connection_id)
    if state is not None:
        query = query.where(outbound_deliveries.c.state == state)
    if page.after is not None:
        query = query.where(seq < int(page.after))
    rows = await host.db.fetch_all(query.order_by(seq.desc()).limit(page.limit + 1))
    shown = rows[: page.limit]
    found = [Delivery(**{name: row[name] for name in Delivery._fields}) for row in shown]
    return found, str(shown[-1]["seq"]) if len(rows) > page.limit else None


def compact(value: Mapping[str, Any]) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


async def _trim(host: Host, tx: Transaction, connection_ids: Sequence[str], now: int) -> None:
    """Drop the oldest that wait beyond the bound, of all these connections at once."""
    waiting = (outbound_deliveries.c.connection_id.in_(connection_ids), outbound_deliveries.c.state == "waiting")
    counts = sa.select(outbound_deliveries.c.connection_id, sa.func.count().label("waiting")).where(*waiting)
    counts = counts.group_by(outbound_deliveries.c.connection_id).having(sa.func.count() > BOUND)
    full = {row["connection_id"]: int(row["waiting"]) - BOUND for row in await tx.fetch_all(counts)}
    if not full:
        return
    newest = sa.func.row_number().over(
        partition_by=outbound_deliveries.c.connection_id, order_by=outbound_deliveries.c.seq.desc()
    )
    ranked = sa.select(outbound_deliveries.c.seq, newest.label("place")).where(*waiting).subquery()
    excess = sa.select(ranked.c.seq).where(ranked.c.place > BOUND)
    gone = {"state": "dropped", "body": "", "settled_at": now, "error": "too much waited for this connection"}
    await tx.execute(sa.update(outbound_deliveries).where(outbound_deliveries.c.seq.in_(excess)).values(gone))
    await forget_settled(tx, full.keys())

    def tell() -> None:
        from clavitor_fleet.fleet import fleet_of

        fleet_of(host).metrics.deliveries.labels("dropped").inc(sum(full.values()))
        log.warning("Too much waits for outbound connections: the oldest is dropped", dropped=full)

    tx.after_commit(tell)
