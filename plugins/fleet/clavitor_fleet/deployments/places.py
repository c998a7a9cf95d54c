"""Which deployment an agent belongs to, and when a deployment runs: what the agents feature calls.

Both lock the deployments concerned, so that agents that register at once are counted one after the other.

Every transaction takes its locks in this order, so that none waits for one that waits for it: rows of agents, rows of
deployments, tokens, and the audit log last of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.agents.tables import agents
from clavitor_fleet.artifacts.tables import artifacts
from clavitor_fleet.deployments.models import HOLDING
from clavitor_fleet.deployments.tables import deployments
from clavitor_fleet.errors import invalid_value, unknown_reference
from clavitor_fleet.records import SYSTEM, record

if TYPE_CHECKING:
    from clavitor_host.api import Database, Host, Transaction


async def attach(host: Host, tx: Transaction, app_id: str, wanted: str | None, before: str | None = None) -> str | None:
    """Return the deployment that a registering agent belongs to, None for none. Call it before the agent is written.

    wanted: the one that it names: a 422 `deployment_id` unless it is the app's and has not ended. before: the one that
    it belonged to: it stays there until that has ended. Otherwise the newest of the app with a free place: with fewer
    LIVE agents than replicas.
    """
    holding = await _locked(tx, sa.and_(deployments.c.app_id == app_id, deployments.c.status.in_(HOLDING)))
    replicas = {row["id"]: row["replicas"] for row in holding}
    if wanted is not None:
        if wanted not in replicas:
            raise await _not_to_be_had(tx, app_id, wanted)
        return wanted
    if before in replicas:
        return before
    live = await live_by_deployment(host, tx, tuple(replicas))
    return next((found for found in reversed(replicas) if live.get(found, 0) < replicas[found]), None)


async def agents_changed(host: Host, tx: Transaction, *app_ids: str) -> None:
    """Have those deployments of the apps run whose agents are all LIVE now. Call it after the agents are written."""
    await mark_running(host, tx, deployments.c.app_id.in_(sorted(set(app_ids))))


async def mark_running(host: Host, tx: Transaction, which: sa.ColumnElement[bool]) -> Sequence[str]:
    """Make RUNNING what was starting and has as many LIVE agents as replicas; return the ids.

    One that runs stays so when agents go: `ready_replicas` tells.
    """
    starting = await _locked(tx, sa.and_(which, deployments.c.status.in_(("PRE_FLIGHT", "STARTING"))))
    if not starting:
        return ()
    live = await live_by_deployment(host, tx, [row["id"] for row in starting])
    ready = [row["id"] for row in starting if live.get(row["id"], 0) >= row["replicas"]]
    if ready:
        now = host.clock.now_us()
        change = sa.update(deployments).where(deployments.c.id.in_(ready))
        await tx.execute(change.values(status="RUNNING", running_at=now, updated_at=now))
        tx.before_commit(_record_running, (host, ready))
    return ready


async def live_by_deployment(host: Host, source: Database | Transaction, ids: Sequence[str]) -> dict[str, int]:
    """Return how many LIVE agents each of these deployments has, by one query; those with none are left out."""
    from clavitor_fleet.agents.liveness import is_live, live_since

    if not ids:
        return {}
    mine = agents.c.deployment_id.in_(ids), is_live(live_since(host))
    query = sa.select(agents.c.deployment_id, sa.func.count().label("live")).where(*mine)
    return {row["deployment_id"]: row["live"] for row in await source.fetch_all(query.group_by(agents.c.deployment_id))}


async def lock_agents(tx: Transaction, deployment_id: str) -> None:
    """Hold the agents of a deployment: before the deployment itself is held."""
    mine = sa.select(agents.c.id).where(agents.c.deployment_id == deployment_id)
    await tx.fetch_all(mine.order_by(agents.c.id).with_for_update())


async def count_replicas(host: Host) -> dict[tuple[str, ...], float]:
    """Return how many replicas the deployments that have not ended want, and how many of these are ready: LIVE. What a
    deployment has beyond its replicas makes up for no other's."""
    from clavitor_fleet.agents.liveness import is_live, live_since

    counted = sa.select(agents.c.deployment_id, sa.func.count().label("live")).where(is_live(live_since(host)))
    there = counted.group_by(agents.c.deployment_id).subquery()
    live, replicas = sa.func.coalesce(there.c.live, 0), deployments.c.replicas
    ready = sa.case((live < replicas, live), else_=replicas)
    query = sa.select(
        sa.func.coalesce(sa.func.sum(replicas), 0).label("wanted"),
        sa.func.coalesce(sa.func.sum(ready), 0).label("ready"),
    ).select_from(deployments.outerjoin(there, there.c.deployment_id == deployments.c.id))
    row = await host.db.fetch_one(query.where(deployments.c.status.in_(HOLDING)))
    assert row is not None
    return {(kind,): float(row[kind]) for kind in ("wanted", "ready")}


async def artifact_of_deployment(tx: Transaction, deployment_id: str) -> Mapping[str, Any] | None:
    """Return id, version and sha256 of what a deployment runs, None when it does not say."""
    query = sa.select(artifacts.c.id, artifacts.c.version, artifacts.c.sha256)
    query = query.join(deployments, deployments.c.artifact_id == artifacts.c.id)
    return await tx.fetch_one(query.where(deployments.c.id == deployment_id))


async def release_agents(tx: Transaction, which: sa.ColumnElement[bool]) -> None:
    """Have agents belong to none of the deployments that are about to be deleted."""
    gone = agents.c.deployment_id.in_(sa.select(deployments.c.id).where(which))
    await tx.execute(sa.update(agents).where(gone).values(deployment_id=None))


async def _record_running(tx: Transaction, items: Sequence[tuple[Host, Sequence[str]]]) -> None:
    ids = [found for _, ready in items for found in ready]
    title = f"{len(ids)} deployment{'' if len(ids) == 1 else 's'} running"
    await record(items[0][0], tx, SYSTEM, "run_deployments", title=title, payload={"deployment_ids": ids})


async def _locked(tx: Transaction, which: sa.ColumnElement[bool]) -> Sequence[Mapping[str, Any]]:
    query = sa.select(deployments.c.id, deployments.c.replicas).where(which)
    return await tx.fetch_all(query.order_by(deployments.c.created_at, deployments.c.id).with_for_update())


async def _not_to_be_had(tx: Transaction, app_id: str, wanted: str) -> Exception:
    mine = sa.select(deployments.c.id).where(deployments.c.id == wanted, deployments.c.app_id == app_id)
    if await tx.fetch_one(mine) is None:
        return unknown_reference("deployment_id", "deployment")
    return invalid_value("deployment_id", "a deployment that has not ended")
