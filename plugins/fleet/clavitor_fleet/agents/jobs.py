"""Background work of agents: noticing who is silent, and forgetting what is over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.agents.liveness import (
    GONE_AFTER,
    SECOND,
    in_state,
    live_since,
    lock_liveness,
    mark_stale,
    note_stale,
)
from clavitor_fleet.agents.service import COLUMNS, agent_of, end_agents
from clavitor_fleet.agents.tables import agent_commands, agents
from clavitor_fleet.agents.watch import LOOK, note_look
from clavitor_fleet.records import SYSTEM
from clavitor_fleet.telemetry.store import Origin
from clavitor_host.api import StorageUnavailable, every, log

if TYPE_CHECKING:
    from clavitor_fleet.fleet import Fleet
    from clavitor_host.api import Host, Job, Row

SWEEP = 3.0
"""Seconds between two looks for agents that are silent."""
TIDY = 60.0
"""Seconds between two looks for what is over."""
KEPT = 7 * 86_400
"""Seconds that GONE agents and ended commands are kept."""
STALE_EVENT = "agent.stale"
"""Type of the agent event that is reported for an agent that has become STALE."""

_BATCH = 200
"""Rows that one transaction deletes."""
_ENDED = 100
"""Agents that one transaction ends."""
_REPORTED = 1000
"""Agents that are reported before they are noted as reported."""


def agent_jobs(fleet: Fleet) -> Sequence[Job]:
    """Return the jobs."""

    async def sweep() -> None:
        await sweep_stale(fleet)

    async def watch() -> None:
        await note_look(fleet.host)

    async def tidy() -> None:
        await end_silent(fleet)
        await forget(fleet)

    return [
        every(SWEEP, sweep, name="agents-sweep", exclusive=True),
        every(LOOK, watch, name="agents-watch"),
        every(TIDY, tidy, name="agents-tidy", exclusive=True),
    ]


async def sweep_stale(fleet: Fleet) -> None:
    """Note which LIVE agents have become STALE, whose seats are free and whose streams end; and put an agent event into
    telemetry for each that has, whoever noted it, so that alert rules hear of it: once at least."""
    await _mark(fleet.host)
    await _report(fleet)


async def _mark(host: Host) -> None:
    since = live_since(host)
    late = sa.select(agents.c.id).where(
        agents.c.gone_at.is_(None), agents.c.stale_at.is_(None), agents.c.last_seen_at < since
    )
    if await host.db.fetch_one(late.limit(1)) is None:
        return
    async with host.db.transaction() as tx:
        await note_stale(host, tx, await mark_stale(host, tx))


async def end_silent(fleet: Fleet) -> None:
    """Have agents GONE that have been STALE for a day."""
    host = fleet.host
    late = live_since(host)
    silent = sa.and_(in_state("STALE", late), agents.c.last_seen_at < late - GONE_AFTER * SECOND)
    some = sa.select(*COLUMNS).where(silent).order_by(agents.c.id).limit(_ENDED)
    while await _any(fleet, agents, silent):
        async with host.db.transaction() as tx:
            await lock_liveness(tx)
            rows = await tx.fetch_all(some.with_for_update())
            if rows:
                await end_agents(host, tx, [agent_of(row) for row in rows], requested_by=SYSTEM)


async def forget(fleet: Fleet) -> None:
    """Expire commands, and delete what has been over for a week: GONE agents and ended commands."""
    host = fleet.host
    now = host.clock.now_us()
    kept = now - KEPT * SECOND
    overdue = sa.and_(agent_commands.c.status == "PENDING", agent_commands.c.expires_at <= now)
    ended = sa.and_(agent_commands.c.status != "PENDING", agent_commands.c.finished_at < kept)
    gone = agents.c.gone_at < kept
    if await _any(fleet, agent_commands, overdue):
        expired = sa.update(agent_commands).where(overdue)
        await host.db.execute(expired.values(status="EXPIRED", finished_at=agent_commands.c.expires_at))
    for table, over in ((agent_commands, ended), (agents, gone)):
        some = sa.select(table.c.id).where(over).limit(_BATCH)
        while await _any(fleet, table, over):
            await host.db.execute(sa.delete(table).where(table.c.id.in_(some)))


async def _any(fleet: Fleet, table: sa.Table, condition: sa.ColumnElement[bool]) -> bool:
    return await fleet.host.db.fetch_one(sa.select(table.c.id).where(condition).limit(1)) is not None


async def _report(fleet: Fleet) -> None:
    """Put what is not reported into telemetry, by one insert for the agents of an app. What fails is tried again."""
    db = fleet.host.db
    unreported = agents.c.unreported_stale_at
    columns = (agents.c.id, agents.c.environment_id, agents.c.app_id, agents.c.name, unreported)
    query = sa.select(*columns).where(unreported.is_not(None)).order_by(agents.c.app_id, agents.c.id).limit(_REPORTED)
    while rows := await db.fetch_all(query):
        try:
            for (environment_id, app_id), some in groupby(rows, lambda row: (row["environment_id"], row["app_id"])):
                events = [_stale_event(row) for row in some]
                origin = Origin(environment_id, app_id, events[0]["agent_id"])
                await fleet.telemetry.insert("agent_events", origin, events)
        except StorageUnavailable as error:
            log.warning("Agents that became stale are not in telemetry yet", reason=error.detail)
            return
        newest = max(row["unreported_stale_at"] for row in rows)
        told = agents.c.id.in_([row["id"] for row in rows]), unreported <= newest
        async with db.transaction() as tx:
            await lock_liveness(tx)
            await tx.execute(sa.update(agents).where(*told).values(unreported_stale_at=None))


def _stale_event(row: Row) -> dict[str, Any]:
    return {
        "agent_id": row["id"],
        "ts": row["unreported_stale_at"],
        "type": STALE_EVENT,
        "message": f"{row['name']} is stale",
        "attributes": None,
    }
