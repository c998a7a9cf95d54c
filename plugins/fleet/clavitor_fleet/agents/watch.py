"""Whether anybody was there to hear heartbeats: while no server runs, no agent misses one.

Every process notes now and then that it is there. One that starts and finds that nobody was lets the agents that were
LIVE then be LIVE now: they keep their seats, whatever the license says since, and have the usual time to be heard of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_fleet.agents.liveness import MISSED, SECOND, heartbeat_interval, is_live, lock_liveness
from clavitor_fleet.agents.tables import agent_watch, agents
from clavitor_host.api import log

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction

LOOK = 3.0
"""Seconds between two looks of a process."""

_ROW = 1
_LOOKED_AT = sa.select(agent_watch.c.looked_at).where(agent_watch.c.id == _ROW)


async def note_look(host: Host) -> None:
    """Note that somebody is there, unless another process has just done so."""
    now = host.clock.now_us()
    looked_at = await host.db.fetch_val(_LOOKED_AT)
    if looked_at is None or not 0 <= now - looked_at < LOOK * SECOND / 2:
        async with host.db.transaction() as tx:
            await _write(tx, now)


async def resume(host: Host) -> None:
    """Before this process serves: when nobody was there, take the agents that were LIVE then as heard of now.

    Of processes that start together the first does it: the others find that it is there.
    """
    async with host.db.transaction() as tx:
        await lock_liveness(tx)
        now = host.clock.now_us()
        looked_at = await tx.fetch_val(_LOOKED_AT)
        missed = MISSED * heartbeat_interval(host) * SECOND
        kept = 0
        if looked_at is not None and now - looked_at > min(2 * LOOK * SECOND, missed):
            were_live = is_live(looked_at - missed)
            kept = await tx.execute(sa.update(agents).where(were_live).values(last_seen_at=now))
        await _write(tx, now)
    if kept:
        away = (now - looked_at) // SECOND
        log.info("No server ran for a while; the agents that were LIVE then still are", seconds=away, agents=kept)


async def _write(tx: Transaction, now: int) -> None:
    row = {"id": _ROW, "looked_at": now}
    await tx.insert_many(agent_watch, [row], upsert_on=["id"], update=["looked_at"])
