"""`/api/v1/agents/{id}/events`: what an agent hears (Server-Sent Events)."""

from __future__ import annotations

from quart import Blueprint

from clavitor_fleet.agents.access import PATH, itself
from clavitor_fleet.agents.heartbeats import claim_stream
from clavitor_fleet.agents.service import seated_agent
from clavitor_fleet.agents.stream import EventStream
from clavitor_fleet.fleet import fleet_of
from clavitor_host.api import Parameter, Reply, Request, caller, endpoint, new_id

blueprint = Blueprint("agent_events", __name__)

CONTENT_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@blueprint.get(f"{PATH}/<agent_id>/events")
@endpoint(
    action="fleet.read",
    resource="agents",
    summary="Hear of commands and of changed entries",
    tag="agents",
    errors=(404,),
    content_types=(CONTENT_TYPE,),
    parameters=(
        Parameter(
            "Last-Event-ID", "The `id` of the last event received: the stream goes on behind it.", location="header"
        ),
    ),
)
async def events(request: Request, agent_id: str) -> Reply:
    """Server-Sent Events, for the agent itself: `command` (id, seq, type, payload, created_at, expires_at), `entry`
    (entry_id, rev, deleted, updated_at: a change in the environment), and `resync` (reason: unknown or too_old), after
    which it reads all entries again. Without `Last-Event-ID` the stream begins with the commands that wait, and with
    the changes from now on. A new stream of an agent ends its older one. A 403 `agent_not_live`: send a heartbeat
    first."""
    agent = await seated_agent(request.host, itself(request, agent_id))
    if request.method == "HEAD":
        return Reply(200, b"", CONTENT_TYPE, _HEADERS)
    claim = new_id(request.host)
    await claim_stream(request.host, agent.id, claim)
    resumes = request.header(b"last-event-id") or ""
    stream = EventStream(agent.id, agent.environment_id, caller(request).token_id, claim, resumes)
    return Reply(200, b"", CONTENT_TYPE, _HEADERS, stream=fleet_of(request.host).hub.serve(stream))
