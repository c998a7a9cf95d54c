"""Which agents a caller reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_fleet.agents.service import get_agent
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id
from clavitor_host.api import Resource, caller, forbidden

if TYPE_CHECKING:
    from clavitor_fleet.agents.models import Agent
    from clavitor_host.api import Request

PATH = "/api/v1/agents"


async def reached_agent(request: Request, agent_id: str, *, write: bool = False) -> Agent:
    """Return an agent that the caller reaches. Raises a 404, also for one in an environment out of reach."""
    agent = await get_agent(request.host, known_id(agent_id, not_found("agent")))
    by = caller(request)
    if by.environment_id not in (None, agent.environment_id):
        raise not_found("agent")
    resource = Resource("agents", agent.id, agent.environment_id)
    await request.host.authorize(by, "fleet.write" if write else "fleet.read", resource)
    return agent


def itself(request: Request, agent_id: str) -> str:
    """Return the id of the agent that asks. Raises a 403 for anybody else."""
    if caller(request).agent_id is None or caller(request).agent_id != agent_id:
        raise forbidden("Only the agent itself does this.")
    return agent_id


def person(request: Request) -> None:
    """Raise a 403 for an agent."""
    if caller(request).kind == "agent":
        raise forbidden("An agent does not do this.")
