"""`/api/v1/agents`: agents come, show that they live, and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from quart import Blueprint

from clavitor_fleet.agents import heartbeats, registration, service
from clavitor_fleet.agents.access import PATH, itself, reached_agent
from clavitor_fleet.agents.liveness import heartbeat_interval, live_since
from clavitor_fleet.agents.schemas import (
    AgentOut,
    AgentPage,
    HeartbeatOut,
    Register,
    RegisteredOut,
    RunsOut,
    SendHeartbeat,
)
from clavitor_fleet.apps.named import named_app
from clavitor_fleet.http import nothing
from clavitor_fleet.lists import PAGE, page_of, query_id
from clavitor_host.api import (
    Parameter,
    Reply,
    Request,
    Resource,
    caller,
    clean_name,
    endpoint,
    invalid_field,
    parse_body,
)

if TYPE_CHECKING:
    from clavitor_fleet.agents.models import AgentState

blueprint = Blueprint("agents", __name__)

STATES = ("LIVE", "STALE", "GONE")


@blueprint.post(f"{PATH}/register")
@endpoint(
    action="agents.register",
    resource="agents",
    summary="Register an agent",
    tag="agents",
    body=Register,
    reply=RegisteredOut,
    status=201,
    statuses={200: "The agent was known: it has a new token, its old ones have ended."},
    errors=(422,),
)
async def register(request: Request, body: Register) -> Reply:
    """For operators, and for agent tokens of the app's environment: one without an agent registers any, another only
    itself. A 403 `license_cap_reached`: the license allows no more; nothing is registered."""
    wanted = registration.Registration(
        app_id=body.app_id,
        instance_id=clean_name(body.instance_id, "instance_id"),
        version=clean_name(body.version, "version"),
        name=None if body.name is None else clean_name(body.name),
        deployment_id=body.deployment_id,
        scope=body.scope,
    )
    await named_app(request, body.app_id, "agents", "agents.register")
    made = await registration.register(request.host, wanted, requested_by=caller(request))
    out = RegisteredOut(
        agent=AgentOut.of(made.agent, live_since(request.host)),
        artifact=None if made.artifact is None else RunsOut.model_validate(made.artifact),
        token=made.token,
        heartbeat_interval=heartbeat_interval(request.host),
        server_time=request.host.clock.now_us(),
    )
    headers = {"Location": f"{PATH}/{made.agent.id}"}
    return Reply(201 if made.was is None else 200, out.model_dump_json().encode(), headers=headers)


@blueprint.get(PATH)
@endpoint(
    action="fleet.read",
    resource="agents",
    summary="List agents",
    tag="agents",
    reply=AgentPage,
    parameters=(
        Parameter("environment_id", "Only the agents of this environment."),
        Parameter("app_id", "Only the agents of this app."),
        Parameter("state", "Only the agents in this state.", enum=STATES),
        *PAGE,
    ),
)
async def list_agents(request: Request) -> AgentPage:
    wanted = query_id(request, "environment_id")
    if wanted is not None:
        await request.host.authorize(caller(request), "fleet.read", Resource("agents", None, wanted))
    state = request.query.get("state")
    if state not in (None, *STATES):
        raise invalid_field("state", "LIVE, STALE or GONE")
    found, cursor = await service.list_agents(
        request.host,
        page_of(request),
        environment_id=wanted or caller(request).environment_id,
        app_id=query_id(request, "app_id"),
        state=cast("AgentState | None", state),
    )
    since = live_since(request.host)
    return AgentPage(agents=[AgentOut.of(one, since) for one in found], next_cursor=cursor)


@blueprint.get(f"{PATH}/<agent_id>")
@endpoint(action="fleet.read", resource="agents", summary="Read an agent", tag="agents", reply=AgentOut, errors=(404,))
async def get_agent(request: Request, agent_id: str) -> AgentOut:
    return AgentOut.of(await reached_agent(request, agent_id), live_since(request.host))


@blueprint.delete(f"{PATH}/<agent_id>")
@endpoint(
    action="fleet.write", resource="agents", summary="Have an agent gone", tag="agents", status=204, errors=(404,)
)
async def delete_agent(request: Request, agent_id: str) -> Reply:
    """Its seat is free, its tokens and its event stream end. An agent that stops may do this itself."""
    agent = await reached_agent(request, agent_id, write=True)
    await service.delete_agent(request.host, agent.id, requested_by=caller(request))
    return nothing()


@blueprint.post(f"{PATH}/<agent_id>/heartbeat")
@endpoint(
    action="fleet.write",
    resource="agents",
    summary="Show that an agent lives",
    tag="agents",
    accepts=SendHeartbeat,
    reply=HeartbeatOut,
    errors=(404,),
)
async def heartbeat(request: Request, agent_id: str) -> HeartbeatOut:
    """For the agent itself. No body is the same as `{}`. One that is STALE gets a seat again, or a 403
    `license_cap_reached`."""
    host = request.host
    body = await parse_body(request, SendHeartbeat) if await request.body() else SendHeartbeat()
    assert isinstance(body, SendHeartbeat)
    status = None if body.status is None else clean_name(body.status, "status")
    pending = await heartbeats.heartbeat(host, itself(request, agent_id), status, requested_by=caller(request))
    return HeartbeatOut(
        state="LIVE",
        heartbeat_interval=heartbeat_interval(host),
        pending_commands=pending,
        server_time=host.clock.now_us(),
    )
