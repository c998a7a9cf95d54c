"""Agents: reading them, and ending them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.agents.liveness import CHANGED, in_state, live_since, state_of
from clavitor_fleet.agents.models import Agent, AgentState
from clavitor_fleet.agents.tables import agent_commands, agents
from clavitor_fleet.deployments.places import agents_changed
from clavitor_fleet.errors import not_found
from clavitor_fleet.lists import Page, fetch_page
from clavitor_fleet.records import record
from clavitor_host.api import PointRead, Problem, forbidden, revoke_tokens

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Transaction

COLUMNS = tuple(agents.c[name] for name in Agent._fields)
_AGENT = PointRead(sa.select(*COLUMNS).where(agents.c.id == sa.bindparam("id")))


async def get_agent(host: Host, agent_id: str) -> Agent:
    """Return an agent. Raises a 404."""
    row = await host.db.point_read(_AGENT, agent_id)
    if row is None:
        raise not_found("agent")
    return Agent(*row)


async def seated_agent(host: Host, agent_id: str) -> Agent:
    """Return an agent that is LIVE: by one point read. Raises a 403 for one that has lost its seat, a 404."""
    agent = await get_agent(host, agent_id)
    if state_of(agent._asdict(), live_since(host)) != "LIVE":
        raise not_live()
    return agent


async def list_agents(
    host: Host, page: Page, *, environment_id: str | None, app_id: str | None, state: AgentState | None
) -> tuple[Sequence[Agent], str | None]:
    """Return a page of agents by id, and the next cursor. None: not narrowed by that."""
    query = sa.select(*COLUMNS)
    if environment_id is not None:
        query = query.where(agents.c.environment_id == environment_id)
    if app_id is not None:
        query = query.where(agents.c.app_id == app_id)
    if state is not None:
        query = query.where(in_state(state, live_since(host)))
    return await fetch_page(host, query, agents.c.id, page, agent_of)


async def delete_agent(host: Host, agent_id: str, *, requested_by: Identity) -> None:
    """Have an agent GONE: its seat is free, its tokens end, and what it was commanded is expired. Raises a 404."""
    async with host.db.transaction() as tx:
        agent = await locked_agent(tx, agent_id)
        if agent.gone_at is not None:
            return
        await _end(host, tx, [agent])
        await revoke_tokens(host, tx, agent_id=agent.id, requested_by=requested_by)
        payload = {"agent_id": agent.id, "app_id": agent.app_id}
        await record(host, tx, requested_by, "delete_agent", title=f"agent {agent.name} is gone", payload=payload)


async def end_agents(host: Host, tx: Transaction, some: Sequence[Agent], *, requested_by: Identity) -> None:
    """Do what `delete_agent` does to several agents, whose rows the transaction holds."""
    ids = sorted(agent.id for agent in some)
    await _end(host, tx, some)
    await revoke_tokens(host, tx, agent_ids=ids, requested_by=requested_by)
    title = f"agent {some[0].name} is gone" if len(ids) == 1 else f"{len(ids)} agents are gone"
    await record(host, tx, requested_by, "delete_agents", title=title, payload={"agents": ids, "count": len(ids)})


async def _end(host: Host, tx: Transaction, some: Sequence[Agent]) -> None:
    now = host.clock.now_us()
    ids = sorted(agent.id for agent in some)
    await tx.execute(sa.update(agents).where(agents.c.id.in_(ids)).values(gone_at=now, stream_id=None))
    pending = sa.and_(agent_commands.c.agent_id.in_(ids), agent_commands.c.status == "PENDING")
    await tx.execute(sa.update(agent_commands).where(pending).values(status="EXPIRED", finished_at=now))
    await agents_changed(host, tx, *(agent.app_id for agent in some))
    await host.signals.send(tx, CHANGED, ids[0] if len(ids) == 1 else "")


async def count_present_agents(tx: Transaction, app_id: str) -> int:
    """Return how many agents of an app are not GONE."""
    present = sa.select(sa.func.count()).where(agents.c.app_id == app_id, agents.c.gone_at.is_(None))
    return int(await tx.fetch_val(present))


async def forget_gone_agents(tx: Transaction, app_id: str) -> None:
    """Delete what is kept of an app's GONE agents."""
    await tx.execute(sa.delete(agents).where(agents.c.app_id == app_id, agents.c.gone_at.is_not(None)))


async def locked_agent(tx: Transaction, agent_id: str) -> Agent:
    """Return an agent whose row this transaction then holds. Raises a 404."""
    row = await tx.fetch_one(sa.select(*COLUMNS).where(agents.c.id == agent_id).with_for_update())
    if row is None:
        raise not_found("agent")
    return agent_of(row)


def agent_of(row: Mapping[str, Any]) -> Agent:
    """Return a stored row as an `Agent`."""
    return Agent(**{name: row[name] for name in Agent._fields})


def not_live() -> Problem:
    """Return the 403 for an agent that has lost its seat."""
    return forbidden("This agent has missed its heartbeats and lost its seat; send one first.", code="agent_not_live")
