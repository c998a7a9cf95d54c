"""The JSON bodies of `/api/v1/agents`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from clavitor_fleet.agents.commands import MAX_PAYLOAD
from clavitor_fleet.agents.liveness import state_of
from clavitor_fleet.agents.models import Agent, AgentState, Command, CommandStatus
from clavitor_fleet.schemas import MAX_NAME, Body, Id, Micros, Name, Result, spelled

WEEK = 604_800
Text = Annotated[str, Field(min_length=1, max_length=MAX_NAME, examples=["shop-1"])]
CommandType = Annotated[
    str,
    spelled("[A-Za-z0-9._-]{1,64}", "1 to 64 of A-Z a-z 0-9 . _ -"),
    Field(json_schema_extra={"pattern": "^[A-Za-z0-9._-]{1,64}$"}, examples=["restart"]),
]


class Register(Body):
    app_id: Id
    instance_id: Annotated[Text, Field(description="By it the app's agent is known again: a host name, a pod's name.")]
    version: Text
    name: Annotated[Name | None, Field(description="Not given: the instance id.")] = None
    deployment_id: Annotated[
        Id | None, Field(description="Not given: the newest deployment of the app with a free place, if any.")
    ] = None
    scope: Annotated[
        Literal["read", "write"], Field(description="What the token may do with entries of the environment.")
    ] = "read"


class SendHeartbeat(Body):
    status: Annotated[
        str | None, Field(max_length=MAX_NAME, description="What the agent says of itself; null: nothing new.")
    ] = None


class SendCommand(Body):
    type: CommandType
    payload: Annotated[dict[str, Any], Field(description=f"At most {MAX_PAYLOAD} bytes.", default_factory=dict)]
    expires_in: Annotated[int, Field(ge=1, le=WEEK, description="Seconds in which it must be acknowledged.")] = 86_400


class Acknowledge(Body):
    status: Literal["DONE", "FAILED"]
    detail: Annotated[str | None, Field(max_length=2000, pattern=r"^[^\x00]*$")] = None


class AgentOut(Result):
    id: str
    app_id: str
    environment_id: str
    deployment_id: str | None
    instance_id: str
    name: str
    version: str
    state: AgentState
    status: str | None
    last_seen: Micros
    registered_at: Micros
    created_at: Micros

    @classmethod
    def of(cls, agent: Agent, since: int) -> Self:
        """Return an agent as clients see it. since: of `liveness.live_since`."""
        known = agent._asdict()
        return cls.model_validate({**known, "state": state_of(known, since), "last_seen": agent.last_seen_at})


class AgentPage(Result):
    agents: list[AgentOut]
    next_cursor: str | None


class RunsOut(Result):
    id: str
    version: str
    sha256: Annotated[str, Field(description="SHA-256 of the bytes, hex.")]


class RegisteredOut(Result):
    agent: AgentOut
    artifact: Annotated[
        RunsOut | None,
        Field(
            description="What its deployment runs, if that says so; the bytes are at "
            "`/api/v1/agents/{agent_id}/artifacts/{artifact_id}/content`."
        ),
    ]
    token: Annotated[str, Field(description="To be had only now.")]
    heartbeat_interval: Annotated[int, Field(description="Seconds. An agent that misses three heartbeats is STALE.")]
    server_time: Micros


class HeartbeatOut(Result):
    state: AgentState
    heartbeat_interval: int
    pending_commands: int
    server_time: Micros


class CommandOut(Result):
    id: str
    agent_id: str
    seq: Annotated[int, Field(description="1, 2, … for each agent.")]
    type: str
    payload: dict[str, Any]
    status: CommandStatus
    detail: str | None
    created_at: Micros
    created_by: str
    expires_at: Micros
    finished_at: Micros | None

    @classmethod
    def of(cls, command: Command) -> Self:
        """Return a command as clients see it."""
        return cls.model_validate({**command._asdict(), "payload": json.loads(command.payload)})


class CommandPage(Result):
    commands: list[CommandOut]
    next_cursor: str | None
