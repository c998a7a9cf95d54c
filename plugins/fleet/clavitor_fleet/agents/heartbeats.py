"""Heartbeats, and claims of event streams: many at once, by few statements, in the group commit.

A row that another transaction holds is not waited for here: whoever waits would hold up everybody's commit. Such an
agent, and one that has lost its seat, takes a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.agents.liveness import CHANGED, live_since, note_stale, state_of, take_seat
from clavitor_fleet.agents.service import get_agent, locked_agent, not_live
from clavitor_fleet.agents.tables import agent_commands, agents
from clavitor_fleet.deployments.places import agents_changed
from clavitor_fleet.errors import not_found
from clavitor_fleet.records import record
from clavitor_host.api import CapExceeded

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Row, Transaction


class Heartbeat(NamedTuple):
    """`status`: what the agent says of itself, None for nothing new."""

    host: Host
    agent_id: str
    status: str | None


class Claim(NamedTuple):
    """That `stream_id` is from now on the event stream of an agent."""

    host: Host
    agent_id: str
    stream_id: str


async def heartbeat(host: Host, agent_id: str, status: str | None, *, requested_by: Identity) -> int:
    """Note that an agent is alive; return how many commands wait for it.

    One that has lost its seat takes one again: a 403 for the cap. Raises a 404 for one that is GONE.
    """
    from clavitor_fleet.fleet import fleet_of

    pending = await host.writer.submit(_beat, Heartbeat(host, agent_id, status))
    if pending is not None:
        return pending
    refusals = fleet_of(host).refusals
    await refusals.repeat(agent_id)
    try:
        pending = await _return(host, agent_id, status, requested_by)
    except CapExceeded as error:
        refusals.note(agent_id, error)
        raise
    refusals.forget(agent_id)
    return pending


async def claim_stream(host: Host, agent_id: str, stream_id: str) -> None:
    """Have the event streams that an agent has so far end. Raises a 403 for one that is not LIVE, a 404."""
    if not await host.writer.submit(_claim, Claim(host, agent_id, stream_id)):
        async with host.db.transaction() as tx:
            agent = await locked_agent(tx, agent_id)
            if state_of(agent._asdict(), live_since(host)) != "LIVE":
                raise not_live()
            await tx.execute(sa.update(agents).where(agents.c.id == agent_id).values(stream_id=stream_id))
            await host.signals.send(tx, CHANGED, agent_id)


async def _beat(tx: Transaction, beats: Sequence[Heartbeat]) -> Sequence[int | None]:
    """Return how many commands wait for each agent, None where it needs a transaction of its own."""
    host = beats[0].host
    live = await _live(host, tx, [beat.agent_id for beat in beats])
    if not live:
        return [None] * len(beats)
    said = {beat.agent_id: beat.status for beat in beats if beat.status is not None}
    new = {id: status for id, status in said.items() if id in live and live[id]["status"] != status}
    seen = sa.update(agents).where(agents.c.id.in_(sorted(live))).values(last_seen_at=host.clock.now_us())
    if new:
        seen = seen.values(status=sa.case(new, value=agents.c.id, else_=agents.c.status))
    await tx.execute(seen)
    pending = await _pending(host, tx, sorted(live))
    return [pending.get(beat.agent_id, 0) if beat.agent_id in live else None for beat in beats]


async def _claim(tx: Transaction, claims: Sequence[Claim]) -> Sequence[bool]:
    host = claims[0].host
    live = await _live(host, tx, [claim.agent_id for claim in claims])
    newest = {claim.agent_id: claim.stream_id for claim in claims if claim.agent_id in live}
    if newest:
        streams = sa.case(newest, value=agents.c.id, else_=agents.c.stream_id)
        await tx.execute(sa.update(agents).where(agents.c.id.in_(sorted(newest))).values(stream_id=streams))
    for agent_id in newest:
        await host.signals.send(tx, CHANGED, agent_id)
    return [claim.agent_id in newest for claim in claims]


async def _live(host: Host, tx: Transaction, ids: Sequence[str]) -> dict[str, Row]:
    """Return those of some agents that are LIVE and that nobody else holds, and hold them."""
    query = sa.select(agents.c.id, agents.c.gone_at, agents.c.stale_at, agents.c.last_seen_at, agents.c.status).where(
        agents.c.id.in_(sorted(set(ids)))
    )
    rows = await tx.fetch_all(query.order_by(agents.c.id).with_for_update(skip_locked=True))
    since = live_since(host)
    return {row["id"]: row for row in rows if state_of(row, since) == "LIVE"}


async def _pending(host: Host, tx: Transaction, ids: Sequence[str]) -> dict[str, int]:
    query = sa.select(agent_commands.c.agent_id, sa.func.count().label("pending")).where(
        agent_commands.c.agent_id.in_(ids),
        agent_commands.c.status == "PENDING",
        agent_commands.c.expires_at > host.clock.now_us(),
    )
    return {row["agent_id"]: row["pending"] for row in await tx.fetch_all(query.group_by(agent_commands.c.agent_id))}


async def _return(host: Host, agent_id: str, status: str | None, by: Identity) -> int:
    """Do a heartbeat that may need a seat."""
    live = state_of((await get_agent(host, agent_id))._asdict(), live_since(host)) == "LIVE"
    async with host.db.transaction() as tx:
        stale = () if live else await take_seat(host, tx, by)
        agent = await locked_agent(tx, agent_id)
        if agent.gone_at is not None:
            raise not_found("agent")
        if live and state_of(agent._asdict(), live_since(host)) != "LIVE":
            raise not_live()  # in this very moment: the next heartbeat asks for a seat
        seen = {"last_seen_at": host.clock.now_us(), "stale_at": None, "status": status or agent.status}
        await tx.execute(sa.update(agents).where(agents.c.id == agent_id).values(seen))
        pending = await _pending(host, tx, [agent_id])
        if not live:
            await agents_changed(host, tx, agent.app_id)
            await note_stale(host, tx, [row for row in stale if row["id"] != agent_id])
            payload = {"agent_id": agent_id, "app_id": agent.app_id}
            await record(host, tx, by, "return_agent", title=f"agent {agent.name} is back", payload=payload)
        return pending.get(agent_id, 0)
