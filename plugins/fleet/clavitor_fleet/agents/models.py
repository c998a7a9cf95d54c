"""Typed values of agents."""

from __future__ import annotations

from typing import Literal, NamedTuple

AgentState = Literal["LIVE", "STALE", "GONE"]
CommandStatus = Literal["PENDING", "DONE", "FAILED", "EXPIRED"]


class Agent(NamedTuple):
    """An agent. Times are µs since the epoch; see the table for the columns."""

    id: str
    app_id: str
    environment_id: str
    deployment_id: str | None
    instance_id: str
    name: str
    version: str
    status: str | None
    created_at: int
    registered_at: int
    last_seen_at: int
    stale_at: int | None
    gone_at: int | None


class Command(NamedTuple):
    """A command to an agent. Times are µs since the epoch. `payload`: JSON text."""

    id: str
    agent_id: str
    seq: int
    type: str
    payload: str
    status: CommandStatus
    detail: str | None
    created_at: int
    created_by: str
    expires_at: int
    finished_at: int | None
