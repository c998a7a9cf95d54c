"""What the operator is to be alerted of: kept in the transaction of what it tells of, raised after it by a worker.

Nobody waits for whoever carries alerts to the operator, and a crash in between loses none. Raised again, with the same
`notice`, when the process ends between raising one and noting that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.connections.tables import operator_notices
from clavitor_host.api import log, new_id

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction

NOTICES: Final = "fleet.notices"
"""The signal that there is something to raise."""
BOUND: Final = 1_000
"""Notices that wait at most; beyond it the oldest go, after they were logged."""
_BATCH = 50


class Notice(NamedTuple):
    """An alert to the operator. type: a stable word; details: JSON values."""

    type: str
    message: str
    details: Mapping[str, Any]


async def tell_operator(host: Host, tx: Transaction, notices: Sequence[Notice]) -> None:
    """Have alerts raised once `tx` is committed."""
    if notices:
        rows = [
            {"id": new_id(host), **notice._asdict(), "details": json.dumps(dict(notice.details))} for notice in notices
        ]
        await tx.insert_many(operator_notices, rows)
        await host.signals.send(tx, NOTICES)


async def raise_notices(host: Host) -> None:
    """Raise what waits, in order, until cancelled. One process of a deployment does."""
    wake = asyncio.Event()
    unsubscribe = host.signals.subscribe(NOTICES, lambda _: wake.set())
    try:
        while True:
            wake.clear()
            if not await _round(host):
                await wake.wait()
    finally:
        unsubscribe()


async def _round(host: Host) -> bool:
    """Raise some; return whether there were any."""
    await _trim(host)
    query = sa.select(operator_notices).order_by(operator_notices.c.seq).limit(_BATCH)
    rows = await host.db.fetch_all(query)
    for row in rows:
        details = {"notice": row["id"], **json.loads(row["details"])}
        await host.edition.alert_operator(row["type"], row["message"], details)
        mine = (operator_notices.c.seq == row["seq"], operator_notices.c.id == row["id"])
        await host.db.execute(sa.delete(operator_notices).where(*mine))
    return bool(rows)


async def _trim(host: Host) -> None:
    query = sa.select(operator_notices.c.seq).order_by(operator_notices.c.seq.desc()).offset(BOUND).limit(1)
    last = await host.db.fetch_val(query)
    if last is not None:
        gone = await host.db.execute(sa.delete(operator_notices).where(operator_notices.c.seq <= last))
        log.warning("Too many alerts to the operator wait: the oldest are dropped", dropped=gone)
