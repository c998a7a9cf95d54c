"""Which agent reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_fleet.agents.service import get_agent, seated_agent
from clavitor_fleet.telemetry.store import Origin
from clavitor_host.api import Problem, forbidden

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity


async def reporter(host: Host, identity: Identity) -> Origin:
    """Return where the rows of a caller come from.

    Raises a 403 for a registration token, which is nobody's yet, and for an agent without a seat: it has missed its
    heartbeats, and sends one first.
    """
    if identity.agent_id is None:
        raise forbidden("Only an agent reports telemetry: register, and use its token.", code="agent_required")
    agent = await seated_agent(host, identity.agent_id)
    return Origin(agent.environment_id, agent.app_id, agent.id)


async def reporting_app(host: Host, agent_id: str | None) -> str | None:
    """Return the app of an agent, so that only its rows are looked through; None for an agent that is not known."""
    if agent_id is None:
        return None
    try:
        return (await get_agent(host, agent_id)).app_id
    except Problem as error:
        if error.status == 404:
            return None
        raise
