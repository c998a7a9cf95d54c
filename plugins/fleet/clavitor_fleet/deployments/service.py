"""Deployments: the rules, each change in one transaction with its audit row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.apps.service import require_app
from clavitor_fleet.artifacts.service import require_artifact
from clavitor_fleet.deployments.compute import assert_room, compute_in_use, failure_of
from clavitor_fleet.deployments.models import HOLDING, Deployment, Size
from clavitor_fleet.deployments.places import lock_agents, mark_running, release_agents
from clavitor_fleet.deployments.store import CHANGED, has_runtime, locked_deployment, unfinished
from clavitor_fleet.deployments.tables import deployments
from clavitor_fleet.records import record
from clavitor_host.api import Problem, new_id, problem

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Transaction

__all__ = ["compute_in_use", "count_holding_deployments", "forget_ended_deployments"]


async def create_deployment(
    host: Host, *, app_id: str, artifact_id: str | None, size: Size, requested_by: Identity
) -> Deployment:
    """Add a deployment: FAILED, with the reason, when it does not say what it needs or when a cap refuses it.

    Otherwise it waits for a runtime (PRE_FLIGHT), or, where no plugin is one, for its agents (STARTING). Raises a 422
    for an app or an artifact that is not there.
    """
    runtime = has_runtime(host)
    async with host.db.transaction() as tx:
        failure = await failure_of(host, tx, size, requested_by.actor)
        app = await require_app(tx, app_id)
        if artifact_id is not None:
            await require_artifact(tx, app_id, artifact_id)
        now = host.clock.now_us()
        made = Deployment(
            id=new_id(host),
            app_id=app_id,
            artifact_id=artifact_id,
            **size._asdict(),
            status="FAILED" if failure else "PRE_FLIGHT" if runtime else "STARTING",
            failure=failure,
            runtime=None,
            created_at=now,
            created_by=requested_by.actor,
            updated_at=now,
            running_at=None,
            ended_at=now if failure else None,
            generation=1,
            reconcile_at=now if runtime and not failure else None,
            attempts=0,
        )
        await tx.execute(sa.insert(deployments).values(**made._asdict()))
        if made.reconcile_at is not None:
            await host.signals.send(tx, CHANGED)
        about = {"deployment_id": made.id, "app_id": app_id, "environment_id": app.environment_id}
        payload = {**about, "artifact_id": artifact_id, **size._asdict()}
        title = f"created a deployment of app {app.name}"
        await record(host, tx, requested_by, "create_deployment", title=title, payload=payload)
        if failure is not None:
            title = f"a deployment of app {app.name} failed"
            await record(host, tx, requested_by, "fail_deployment", title=title, payload={**about, "failure": failure})
        return made


async def change_deployment(
    host: Host, known: Deployment, *, changes: Mapping[str, Any], requested_by: Identity
) -> Deployment:
    """Change the size of a deployment, and which artifact it runs. known: as it was read.

    What grows is checked against the caps (403, nothing changes); what shrinks always passes. Raises a 404, a 422 for
    an artifact that is not the app's, and 409 when the deployment has ended or somebody else has just changed it.
    """
    if known.ended:
        raise ended()
    wanted = known._replace(**changes)
    async with host.db.transaction() as tx:
        await assert_room(host, tx, wanted.size, known.size, requested_by.actor)
        if wanted.artifact_id is not None and wanted.artifact_id != known.artifact_id:
            await require_artifact(tx, known.app_id, wanted.artifact_id)
        before = await locked_deployment(tx, known.id)
        if before.ended:
            raise ended()
        was = _asked(before)
        if was != _asked(known):
            raise problem(409, "deployment_changed", "Somebody has just changed this deployment; try again.")
        new = {key: value for key, value in _asked(wanted).items() if value != was[key]}
        if not new:
            return before
        changed = await _ask(host, tx, before._replace(**new))
        running = await mark_running(host, tx, deployments.c.id == known.id)
        payload = {"deployment_id": known.id, **new, "was": {key: was[key] for key in new}}
        action, title = "scale_deployment", "scaled a deployment"
        if "artifact_id" in new:
            action, title = "update_deployment", "changed what a deployment runs"
        await record(host, tx, requested_by, action, title=title, payload=payload)
        return changed._replace(status="RUNNING", running_at=changed.updated_at) if running else changed


async def stop_deployment(host: Host, deployment_id: str, *, requested_by: Identity) -> Deployment:
    """End a deployment, which then holds nothing. One that has ended stays as it is. Raises a 404."""
    async with host.db.transaction() as tx:
        before = await locked_deployment(tx, deployment_id)
        if before.ended:
            return before
        stopped = await _ask(host, tx, before._replace(status="STOPPED", ended_at=host.clock.now_us()))
        payload = {"deployment_id": deployment_id, "app_id": before.app_id}
        await record(host, tx, requested_by, "stop_deployment", title="stopped a deployment", payload=payload)
        return stopped


async def delete_deployment(host: Host, deployment_id: str, *, requested_by: Identity) -> None:
    """Forget a deployment that has ended. Raises a 404, and 409 when it has not, or its runtime does not know yet."""
    async with host.db.transaction() as tx:
        await lock_agents(tx, deployment_id)
        before = await locked_deployment(tx, deployment_id)
        if not before.ended:
            raise problem(409, "deployment_not_ended", "Only a deployment that has ended is deleted: stop it first.")
        if before.reconcile_at is not None and has_runtime(host):
            raise problem(409, "deployment_stopping", "What it runs on is still being stopped; try again later.")
        await release_agents(tx, deployments.c.id == deployment_id)
        await tx.execute(sa.delete(deployments).where(deployments.c.id == deployment_id))
        payload = {"deployment_id": deployment_id, "app_id": before.app_id}
        await record(host, tx, requested_by, "delete_deployment", title="deleted a deployment", payload=payload)


async def count_holding_deployments(host: Host, tx: Transaction, app_id: str) -> int:
    """Return how many deployments of an app have not ended, or whose runtime does not know yet that they have."""
    return int(await tx.fetch_val(sa.select(sa.func.count()).where(deployments.c.app_id == app_id, unfinished(host))))


async def forget_ended_deployments(tx: Transaction, app_id: str) -> None:
    """Delete what is kept of an app's stopped and failed deployments."""
    ended_ones = deployments.c.app_id == app_id, deployments.c.status.not_in(HOLDING)
    await release_agents(tx, sa.and_(*ended_ones))
    await tx.execute(sa.delete(deployments).where(*ended_ones))


def ended() -> Problem:
    """Return the 409 for changing a deployment that has ended."""
    return problem(409, "deployment_ended", "This deployment has ended; make a new one.")


def _asked(one: Deployment) -> dict[str, Any]:
    """Return what a client may change of a deployment."""
    return {"artifact_id": one.artifact_id, **one.size._asdict()}


async def _ask(host: Host, tx: Transaction, wanted: Deployment) -> Deployment:
    """Keep what is asked of a deployment and have its runtime, if there is one, told of it."""
    now = host.clock.now_us()
    told = has_runtime(host)
    asked = wanted._replace(
        updated_at=now, generation=wanted.generation + 1, attempts=0, reconcile_at=now if told else None
    )
    changed = {name: value for name, value in asked._asdict().items() if name not in ("id", "failure", "runtime")}
    await tx.execute(sa.update(deployments).where(deployments.c.id == asked.id).values(**changed))
    if told:
        await host.signals.send(tx, CHANGED)
    return asked
