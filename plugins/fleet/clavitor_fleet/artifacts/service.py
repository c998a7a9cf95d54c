"""Artifacts: the rules, each change in one transaction with its audit row. `uploads` brings them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.apps.models import Placed
from clavitor_fleet.apps.service import locked_app
from clavitor_fleet.apps.tables import apps
from clavitor_fleet.artifacts import chunks
from clavitor_fleet.artifacts.models import Artifact
from clavitor_fleet.artifacts.pruning import prune
from clavitor_fleet.artifacts.tables import artifacts
from clavitor_fleet.deployments.models import HOLDING
from clavitor_fleet.deployments.tables import deployments
from clavitor_fleet.errors import in_use, not_found, taken, unknown_reference
from clavitor_fleet.lists import Page, fetch_page
from clavitor_fleet.records import record

if TYPE_CHECKING:
    from clavitor_host.api import Database, Host, Identity, Transaction

__all__ = ["add_artifact", "count_artifacts", "delete_artifact", "get_artifact", "list_artifacts", "prune"]

NAMED = 20
"""Deployments that the refusal to delete an artifact names."""

_COLUMNS = tuple(artifacts.c[name] for name in Artifact._fields)


async def add_artifact(host: Host, made: Artifact, *, requested_by: Identity) -> None:
    """Make an upload that is complete an artifact. Raises a 404 when its app is gone, 409 when the version is there."""
    async with host.db.transaction() as tx:
        app = await locked_app(tx, made.app_id)
        await assert_version_free(tx, made.app_id, made.version)
        await chunks.complete(tx, made.id)
        await tx.execute(sa.insert(artifacts).values(**made._asdict()))
        payload = {"artifact_id": made.id, "environment_id": app.environment_id, **made._asdict()}
        del payload["id"], payload["created_at"], payload["created_by"]
        title = f"uploaded {made.version} of app {app.name}"
        await record(host, tx, requested_by, "create_artifact", title=title, payload=payload)


async def list_artifacts(host: Host, app_id: str, page: Page) -> tuple[Sequence[Artifact], str | None]:
    """Return a page of an app's artifacts in the order their uploads began, and the next cursor."""
    query = sa.select(*_COLUMNS).where(artifacts.c.app_id == app_id)
    return await fetch_page(host, query, artifacts.c.id, page, artifact_of)


async def get_artifact(host: Host, artifact_id: str) -> Placed[Artifact]:
    """Return an artifact. Raises a 404."""
    query = sa.select(*_COLUMNS, apps.c.environment_id).join(apps, apps.c.id == artifacts.c.app_id)
    row = await host.db.fetch_one(query.where(artifacts.c.id == artifact_id))
    if row is None:
        raise not_found("artifact")
    return Placed(artifact_of(row), row["environment_id"])


async def get_artifact_of_agent(host: Host, agent_id: str, artifact_id: str) -> Placed[Artifact]:
    """Return an artifact of the app that an agent runs. Raises a 404."""
    from clavitor_fleet.agents.tables import agents

    query = sa.select(*_COLUMNS, apps.c.environment_id).join(apps, apps.c.id == artifacts.c.app_id)
    query = query.join(agents, agents.c.app_id == apps.c.id)
    row = await host.db.fetch_one(query.where(artifacts.c.id == artifact_id, agents.c.id == agent_id))
    if row is None:
        raise not_found("artifact")
    return Placed(artifact_of(row), row["environment_id"])


async def delete_artifact(host: Host, artifact_id: str, *, requested_by: Identity) -> None:
    """Remove an artifact that no deployment uses. Raises a 404, 409."""
    async with host.db.transaction() as tx:
        row = await tx.fetch_one(sa.select(*_COLUMNS).where(artifacts.c.id == artifact_id).with_for_update())
        if row is None:
            raise not_found("artifact")
        await _assert_not_deployed(tx, artifact_id)
        await tx.execute(sa.delete(artifacts).where(artifacts.c.id == artifact_id))
        await chunks.release(tx, [artifact_id])
        payload = {"artifact_id": artifact_id, "app_id": row["app_id"], "version": row["version"]}
        title = f"deleted artifact {row['version']}"
        await record(host, tx, requested_by, "delete_artifact", title=title, payload=payload)


async def require_artifact(tx: Transaction, app_id: str, artifact_id: str, field: str = "artifact_id") -> None:
    """Raise a 422 that names the field unless the artifact is the app's; it stays to the end of the transaction."""
    mine = sa.select(artifacts.c.id).where(artifacts.c.id == artifact_id, artifacts.c.app_id == app_id)
    if await tx.fetch_one(mine.with_for_update(read=True)) is None:
        raise unknown_reference(field, "artifact")


async def count_artifacts(tx: Transaction, app_id: str) -> int:
    """Return how many artifacts an app has."""
    return int(await tx.fetch_val(sa.select(sa.func.count()).where(artifacts.c.app_id == app_id)))


async def total_size(host: Host) -> int:
    """Return the bytes of all artifacts."""
    return int(await host.db.fetch_val(sa.select(sa.func.coalesce(sa.func.sum(artifacts.c.size), 0))))


async def assert_version_free(source: Database | Transaction, app_id: str, version: str) -> None:
    """Raise a 409 when the app has this version."""
    same = sa.select(artifacts.c.id).where(artifacts.c.app_id == app_id, artifacts.c.version == version)
    if await source.fetch_one(same) is not None:
        raise taken("artifact", "version")


def artifact_of(row: Mapping[str, Any]) -> Artifact:
    """Return a stored row as an `Artifact`."""
    return Artifact(**{name: row[name] for name in Artifact._fields})


async def _assert_not_deployed(tx: Transaction, artifact_id: str) -> None:
    used = deployments.c.artifact_id == artifact_id, deployments.c.status.in_(HOLDING)
    count = int(await tx.fetch_val(sa.select(sa.func.count()).where(*used)))
    if count:
        named = await tx.fetch_all(sa.select(deployments.c.id).where(*used).order_by(deployments.c.id).limit(NAMED))
        refusal = in_use("artifact", {"deployments": count})
        refusal.extra["deployments"] = [row["id"] for row in named]
        raise refusal
