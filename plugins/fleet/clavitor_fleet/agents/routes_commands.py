"""`/api/v1/agents/{id}/commands`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from quart import Blueprint

from clavitor_fleet.agents import commands
from clavitor_fleet.agents.access import PATH, itself, person, reached_agent
from clavitor_fleet.agents.schemas import Acknowledge, CommandOut, CommandPage, SendCommand
from clavitor_fleet.agents.service import seated_agent
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id
from clavitor_host.api import Parameter, Reply, Request, caller, created, endpoint, invalid_field

if TYPE_CHECKING:
    from clavitor_fleet.agents.models import CommandStatus

blueprint = Blueprint("agent_commands", __name__)

COMMANDS = f"{PATH}/<agent_id>/commands"
STATUSES = ("PENDING", "DONE", "FAILED", "EXPIRED")
_LAST = 2**63 - 1


@blueprint.post(COMMANDS)
@endpoint(
    action="fleet.write",
    resource="agents",
    summary="Send an agent a command",
    tag="agents",
    body=SendCommand,
    reply=CommandOut,
    status=201,
    errors=(404, 409, 422),
)
async def send_command(request: Request, body: SendCommand, agent_id: str) -> Reply:
    """The agent hears of it on its event stream, also on one that begins later, until its time is over. A stream that
    goes on behind a `Last-Event-ID` does not repeat what was told before it: an agent that may have lost a command,
    since it ended before it acknowledged, reads those with `status=PENDING`."""
    person(request)
    agent = await reached_agent(request, agent_id, write=True)
    wanted = commands.Wanted(body.type, body.payload, body.expires_in)
    made = await commands.send_command(request.host, agent.id, wanted, requested_by=caller(request))
    return created(CommandOut.of(made), f"{PATH}/{agent.id}/commands/{made.id}")


@blueprint.get(COMMANDS)
@endpoint(
    action="fleet.read",
    resource="agents",
    summary="List an agent's commands",
    tag="agents",
    reply=CommandPage,
    errors=(404,),
    parameters=(
        Parameter("status", "Only the commands with this status.", enum=STATUSES),
        Parameter("limit", "Rows a page.", "integer", minimum=1, maximum=1000),
        Parameter("cursor", "`next_cursor` of the page before.", "integer", minimum=0),
    ),
)
async def list_commands(request: Request, agent_id: str) -> CommandPage:
    """In the order they were sent. An agent that begins anew finds by `status=PENDING` what it has not acknowledged.
    One that has lost its seat gets a 403."""
    agent = await reached_agent(request, agent_id)
    if caller(request).kind == "agent":
        await seated_agent(request.host, agent.id)
    status = request.query.get("status")
    if status not in (None, *STATUSES):
        raise invalid_field("status", ", ".join(STATUSES))
    found, cursor = await commands.list_commands(
        request.host,
        agent.id,
        after=request.query_int("cursor", 0, low=0, high=_LAST),
        limit=request.query_int("limit", 100, low=1, high=1000),
        status=cast("CommandStatus | None", status),
    )
    following = None if cursor is None else str(cursor)
    return CommandPage(commands=[CommandOut.of(one) for one in found], next_cursor=following)


@blueprint.get(f"{COMMANDS}/<command_id>")
@endpoint(
    action="fleet.read",
    resource="agents",
    summary="Read a command",
    tag="agents",
    reply=CommandOut,
    errors=(404,),
)
async def get_command(request: Request, agent_id: str, command_id: str) -> CommandOut:
    """An agent that has lost its seat gets a 403."""
    agent = await reached_agent(request, agent_id)
    if caller(request).kind == "agent":
        await seated_agent(request.host, agent.id)
    known = known_id(command_id, not_found("command"))
    return CommandOut.of(await commands.get_command(request.host, agent.id, known))


@blueprint.post(f"{COMMANDS}/<command_id>/ack")
@endpoint(
    action="fleet.write",
    resource="agents",
    summary="Acknowledge a command",
    tag="agents",
    body=Acknowledge,
    reply=CommandOut,
    errors=(404, 409),
)
async def acknowledge(request: Request, body: Acknowledge, agent_id: str, command_id: str) -> CommandOut:
    """For the agent itself. Saying the same twice is no error; a 409 `command_ended`: it ended otherwise."""
    ended = await commands.acknowledge(
        request.host,
        itself(request, agent_id),
        known_id(command_id, not_found("command")),
        body.status,
        body.detail,
        requested_by=caller(request),
    )
    return CommandOut.of(ended)
