"""Commands to agents: sent by people, carried by event streams, acknowledged by the agent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.agents.liveness import CHANGED, SECOND
from clavitor_fleet.agents.models import Agent, Command, CommandStatus
from clavitor_fleet.agents.service import COLUMNS as AGENT_COLUMNS
from clavitor_fleet.agents.service import agent_of
from clavitor_fleet.agents.tables import agent_commands, agents
from clavitor_fleet.errors import invalid_value, not_found
from clavitor_fleet.records import record
from clavitor_host.api import new_id, problem

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Row, Transaction

MAX_PAYLOAD = 65_536
"""Bytes of a command's payload, as JSON."""
PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of payloads after which a page of commands ends."""
MAX_PENDING = 100
"""Commands that may wait for one agent."""

_COLUMNS = tuple(agent_commands.c[name] for name in Command._fields)


class Wanted(NamedTuple):
    """A command to send. `expires_in`: seconds in which the agent must have acknowledged it."""

    type: str
    payload: Mapping[str, Any]
    expires_in: int


async def send_command(host: Host, agent_id: str, wanted: Wanted, *, requested_by: Identity) -> Command:
    """Have an agent do something; it hears of it on its event stream. The audit row tells the type alone.

    Raises a 404, a 409 for an agent that is GONE or has too many commands waiting, a 422 for too large a payload.
    """
    payload = json.dumps(wanted.payload, separators=(",", ":"), ensure_ascii=False)
    if len(payload.encode()) > MAX_PAYLOAD:
        raise invalid_value("payload", f"at most {MAX_PAYLOAD} bytes of JSON")
    async with host.db.transaction() as tx:
        agent, seq = await _locked(tx, agent_id)
        now = host.clock.now_us()
        if agent.gone_at is not None:
            raise problem(409, "agent_gone", "This agent is gone: nobody would hear the command.")
        if await _count_pending(tx, agent_id, now) >= MAX_PENDING:
            raise problem(409, "too_many_commands", f"{MAX_PENDING} commands wait for this agent already.")
        made = Command(
            id=new_id(host),
            agent_id=agent_id,
            seq=seq + 1,
            type=wanted.type,
            payload=payload,
            status="PENDING",
            detail=None,
            created_at=now,
            created_by=requested_by.actor,
            expires_at=now + wanted.expires_in * SECOND,
            finished_at=None,
        )
        await tx.execute(sa.update(agents).where(agents.c.id == agent_id).values(command_seq=made.seq))
        await tx.execute(sa.insert(agent_commands).values(made._asdict()))
        await host.signals.send(tx, CHANGED, agent_id)
        about = {"agent_id": agent_id, "command_id": made.id, "type": made.type}
        title = f"sent command {made.type} to agent {agent.name}"
        await record(host, tx, requested_by, "send_command", title=title, payload=about)
        return made


async def list_commands(
    host: Host, agent_id: str, *, after: int, limit: int, status: CommandStatus | None
) -> tuple[Sequence[Command], int | None]:
    """Return a page of an agent's commands in the order they were sent, and the cursor of the next: a `seq`.

    It ends after `limit` commands or about `PAGE_BYTES`, and holds one at least if there is one.
    """
    now = host.clock.now_us()
    wanted = sa.and_(agent_commands.c.agent_id == agent_id, agent_commands.c.seq > after)
    if status is not None:
        wanted = sa.and_(wanted, _has_status(status, now))
    sizes = sa.select(agent_commands.c.seq, sa.func.length(agent_commands.c.payload).label("size")).where(wanted)
    ahead = await host.db.fetch_all(sizes.order_by(agent_commands.c.seq).limit(limit + 1))
    fits = _fitting([row["size"] for row in ahead[:limit]])
    if not fits:
        return [], None
    wanted = sa.and_(wanted, agent_commands.c.seq <= ahead[fits - 1]["seq"])
    rows = await host.db.fetch_all(sa.select(*_COLUMNS).where(wanted).order_by(agent_commands.c.seq))
    rows = rows[: _fitting([len(row["payload"].encode()) for row in rows])]
    more = rows and rows[-1]["seq"] < ahead[-1]["seq"]
    return [command_of(row, now) for row in rows], rows[-1]["seq"] if more else None


async def get_command(host: Host, agent_id: str, command_id: str) -> Command:
    """Return a command to an agent. Raises a 404."""
    this = sa.and_(agent_commands.c.id == command_id, agent_commands.c.agent_id == agent_id)
    row = await host.db.fetch_one(sa.select(*_COLUMNS).where(this))
    if row is None:
        raise not_found("command")
    return command_of(row, host.clock.now_us())


async def acknowledge(
    host: Host,
    agent_id: str,
    command_id: str,
    status: Literal["DONE", "FAILED"],
    detail: str | None,
    *,
    requested_by: Identity,
) -> Command:
    """Note what came of a command. Saying the same again changes nothing.

    Raises a 404, a 409 for a command that is expired or ended otherwise.
    """
    async with host.db.transaction() as tx:
        this = sa.and_(agent_commands.c.id == command_id, agent_commands.c.agent_id == agent_id)
        row = await tx.fetch_one(sa.select(*_COLUMNS).where(this).with_for_update())
        if row is None:
            raise not_found("command")
        now = host.clock.now_us()
        before = command_of(row, now)
        if before.status == status:
            return before
        if before.status != "PENDING":
            raise problem(409, "command_ended", f"This command is {before.status} already.", ended=before.status)
        ended = {"status": status, "detail": detail, "finished_at": now}
        await tx.execute(sa.update(agent_commands).where(this).values(ended))
        about = {"agent_id": agent_id, "command_id": command_id, "type": before.type, "status": status}
        title = f"command {before.type} {status.lower()}"
        await record(host, tx, requested_by, "acknowledge_command", title=title, payload=about)
        return before._replace(status=status, detail=detail, finished_at=now)


async def waiting_commands(host: Host, after: Mapping[str, int], *, limit: int) -> Sequence[Row]:
    """Return commands that wait for agents, by agent and in the order they were sent, from one query.

    after: for each agent, the `seq` behind which they are wanted.
    """
    behind = [
        sa.and_(agent_commands.c.agent_id == agent_id, agent_commands.c.seq > seq) for agent_id, seq in after.items()
    ]
    query = sa.select(*_COLUMNS).where(sa.or_(*behind), _has_status("PENDING", host.clock.now_us()))
    return await host.db.fetch_all(query.order_by(agent_commands.c.agent_id, agent_commands.c.seq).limit(limit))


def command_of(row: Mapping[str, Any], now: int) -> Command:
    """Return a stored row as a `Command`, EXPIRED when its time is over. now: µs since the epoch."""
    command = Command(**{name: row[name] for name in Command._fields})
    if command.status == "PENDING" and command.expires_at <= now:
        return command._replace(status="EXPIRED", finished_at=command.expires_at)
    return command


def _fitting(sizes: Sequence[int]) -> int:
    """Return how many of these sizes a page has room for."""
    return next((index for index, total in enumerate(accumulate(sizes)) if index and total > PAGE_BYTES), len(sizes))


def _has_status(status: CommandStatus, now: int) -> sa.ColumnElement[bool]:
    column = agent_commands.c.status
    if status == "PENDING":
        return sa.and_(column == "PENDING", agent_commands.c.expires_at > now)
    if status == "EXPIRED":
        return sa.or_(column == "EXPIRED", sa.and_(column == "PENDING", agent_commands.c.expires_at <= now))
    return column == status


async def _locked(tx: Transaction, agent_id: str) -> tuple[Agent, int]:
    query = sa.select(*AGENT_COLUMNS, agents.c.command_seq).where(agents.c.id == agent_id)
    row = await tx.fetch_one(query.with_for_update())
    if row is None:
        raise not_found("agent")
    return agent_of(row), row["command_seq"]


async def _count_pending(tx: Transaction, agent_id: str, now: int) -> int:
    pending = sa.and_(agent_commands.c.agent_id == agent_id, _has_status("PENDING", now))
    return int(await tx.fetch_val(sa.select(sa.func.count()).where(pending)))
