"""Agents come: registering, for the first time or again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.agents.liveness import (
    CHANGED,
    SECOND,
    heartbeat_interval,
    live_since,
    note_stale,
    state_of,
    take_seat,
)
from clavitor_fleet.agents.models import Agent, AgentState
from clavitor_fleet.agents.service import COLUMNS
from clavitor_fleet.agents.tables import agents
from clavitor_fleet.apps.service import require_app
from clavitor_fleet.deployments.places import agents_changed, artifact_of_deployment, attach
from clavitor_fleet.errors import unknown_reference
from clavitor_fleet.fleet import fleet_of
from clavitor_fleet.records import record
from clavitor_host.api import add_agent_token, clean_name, forbidden, log, new_id, revoke_tokens

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Row, Scope, Transaction


class Registration(NamedTuple):
    """What registers. `instance_id`: by it the app's agent is known again. `deployment_id`: None for any with room."""

    app_id: str
    instance_id: str
    version: str
    name: str | None = None
    deployment_id: str | None = None
    scope: Scope = "read"


class Registered(NamedTuple):
    """`token`: to be had only now. `was`: what the agent was before, None for a new one. `artifact`: id, version and
    sha256 of what its deployment runs."""

    agent: Agent
    token: str
    was: AgentState | None
    artifact: Mapping[str, Any] | None


class _SeatLost(Exception):
    """The agent was LIVE when it was looked at, and is not any more."""


async def register(host: Host, wanted: Registration, *, requested_by: Identity) -> Registered:
    """Make an agent, or have a known one back, with a new token; its old tokens end.

    Raises a 403 for the cap (nothing is kept), for another agent's token and for a scope that the caller has not; a 422
    for an app or a deployment that is not there.
    """
    live = await _is_live(host, wanted)
    try:
        return await _register(host, wanted, requested_by, needs_seat=not live)
    except _SeatLost:
        return await _register(host, wanted, requested_by, needs_seat=True)


async def _register(host: Host, wanted: Registration, by: Identity, *, needs_seat: bool) -> Registered:
    async with host.db.transaction() as tx:
        stale = await take_seat(host, tx, by) if needs_seat else ()
        app = await require_app(tx, wanted.app_id)
        if by.environment_id not in (None, app.environment_id):
            raise unknown_reference("app_id", "app")
        await tx.lock(f"clavitor_fleet.agents.{app.id}")
        before = await _known(tx, wanted)
        if not needs_seat and (before is None or state_of(before, live_since(host)) != "LIVE"):
            raise _SeatLost
        if by.agent_id is not None and (before is None or before["id"] != by.agent_id):
            raise forbidden("An agent registers only itself.")
        agent_id = before["id"] if before is not None else new_id(host)
        had = before["deployment_id"] if before is not None and before["gone_at"] is None else None
        deployment_id = await attach(host, tx, app.id, wanted.deployment_id, had)
        now = host.clock.now_us()
        made = Agent(
            id=agent_id,
            app_id=app.id,
            environment_id=app.environment_id,
            deployment_id=deployment_id,
            instance_id=wanted.instance_id,
            name=clean_name(wanted.name or wanted.instance_id),
            version=wanted.version,
            status=None,
            created_at=before["created_at"] if before is not None else now,
            registered_at=now,
            last_seen_at=now,
            stale_at=None,
            gone_at=None,
        )
        if before is None:
            await tx.execute(sa.insert(agents).values(made._asdict()))
        else:
            await tx.execute(sa.update(agents).where(agents.c.id == agent_id).values(made._asdict()))
        await agents_changed(host, tx, app.id)
        await host.signals.send(tx, CHANGED, agent_id)
        await note_stale(host, tx, [row for row in stale if row["id"] != agent_id])
        if before is not None:
            await revoke_tokens(host, tx, agent_id=agent_id, requested_by=by)
        _, token = await add_agent_token(
            host,
            tx,
            agent_id=agent_id,
            environment_id=app.environment_id,
            name=f"agent {agent_id}",
            scope=wanted.scope,
            requested_by=by,
        )
        artifact = None if deployment_id is None else await artifact_of_deployment(tx, deployment_id)
        payload = {"agent_id": agent_id, "app_id": app.id, "version": made.version, "deployment_id": deployment_id}
        title = f"registered agent {made.name} of {app.name}" + (" again" if before is not None else "")
        await record(host, tx, by, "register_agent", title=title, payload=payload)
        if before is None:
            return Registered(made, token, None, artifact)
        was = state_of(before, live_since(host))
        at_once = now - before["registered_at"] < heartbeat_interval(host) * SECOND
        twin = was == "LIVE" and at_once and by.agent_id is None
        tx.after_commit(lambda: fleet_of(host).twins.tell(made) if twin else _log_again(made, was))
        return Registered(made, token, was, artifact)


def _log_again(agent: Agent, was: AgentState) -> None:
    log.info("A known agent was registered again", agent=agent.id, instance_id=agent.instance_id, was=was)


async def _is_live(host: Host, wanted: Registration) -> bool:
    row = await host.db.fetch_one(_by_instance(wanted))
    return row is not None and state_of(row, live_since(host)) == "LIVE"


async def _known(tx: Transaction, wanted: Registration) -> Row | None:
    return await tx.fetch_one(_by_instance(wanted).with_for_update())


def _by_instance(wanted: Registration) -> sa.Select[tuple[object, ...]]:
    return sa.select(*COLUMNS).where(agents.c.app_id == wanted.app_id, agents.c.instance_id == wanted.instance_id)
