"""What became of deliveries: kept for whoever looks, and bounded whatever became of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from clavitor_fleet.connections.tables import outbound_deliveries

if TYPE_CHECKING:
    from clavitor_host.api import Transaction

HISTORY: Final = 100
"""Settled deliveries that are kept of each connection."""


async def forget_settled(tx: Transaction, connection_ids: Collection[str]) -> None:
    """Delete the oldest deliveries beyond `HISTORY` that do not wait any more, of all these connections at once."""
    deliveries = outbound_deliveries.c
    place = sa.func.row_number().over(partition_by=deliveries.connection_id, order_by=deliveries.seq.desc())
    settled = (deliveries.connection_id.in_(connection_ids), deliveries.state != "waiting")
    ranked = sa.select(deliveries.seq, place.label("place")).where(*settled).subquery()
    excess = sa.select(ranked.c.seq).where(ranked.c.place > HISTORY)
    await tx.execute(sa.delete(outbound_deliveries).where(deliveries.seq.in_(excess)))
