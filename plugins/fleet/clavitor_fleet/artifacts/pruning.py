"""Only the newest artifacts of an app are kept: as many as its environment says and the license allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from clavitor_fleet.apps.tables import apps
from clavitor_fleet.artifacts import chunks
from clavitor_fleet.artifacts.tables import artifacts
from clavitor_fleet.deployments.models import HOLDING
from clavitor_fleet.deployments.tables import deployments
from clavitor_fleet.environments.tables import environments
from clavitor_fleet.records import SYSTEM, record

if TYPE_CHECKING:
    from clavitor_host.api import Host

LIMIT: Final = "max_jar_retention_count"
BATCH: Final = 100
"""Artifacts deleted in one transaction, and named in its audit row."""

_USED = sa.select(deployments.c.artifact_id).where(
    deployments.c.status.in_(HOLDING), deployments.c.artifact_id.is_not(None)
)


async def prune(host: Host, app_ids: Collection[str] | None = None) -> int:
    """Delete what is beyond the newest `min(cap, configured)` artifacts of each app; return how many that were.

    One that a deployment uses stays, and still counts as one of the newest. app_ids: only these apps, None for all.
    """
    old = _old(await host.effective_cap(LIMIT), app_ids)
    pruned = 0
    while await host.db.fetch_one(old.limit(1)) is not None:
        pruned += await _prune_batch(host, old)
    return pruned


async def _prune_batch(host: Host, old: sa.Select[Any]) -> int:
    async with host.db.transaction() as tx:
        locked = old.order_by(artifacts.c.id).limit(BATCH).with_for_update(of=artifacts)
        found: dict[str, Mapping[str, Any]] = {row["id"]: row for row in await tx.fetch_all(locked)}
        used = await tx.fetch_all(_USED.where(deployments.c.artifact_id.in_(tuple(found))))
        for row in used:  # deployed while we waited for its row
            found.pop(row["artifact_id"], None)
        if found:
            await tx.execute(sa.delete(artifacts).where(artifacts.c.id.in_(tuple(found))))
            await chunks.release(tx, tuple(found))
            count = f"{len(found)} artifact{'' if len(found) == 1 else 's'}"
            payload = {"artifacts": [dict(row) for row in found.values()]}
            await record(host, tx, SYSTEM, "prune_artifacts", title=f"pruned {count}", payload=payload)
        return len(found)


def _old(cap: int | None, app_ids: Collection[str] | None) -> sa.Select[Any]:
    newest_first = (artifacts.c.created_at.desc(), artifacts.c.id.desc())
    rank = sa.func.row_number().over(partition_by=artifacts.c.app_id, order_by=newest_first)
    ranked = sa.select(artifacts.c.id, rank.label("rank"), environments.c.jar_retention_count.label("keep"))
    ranked = ranked.join(apps, apps.c.id == artifacts.c.app_id)
    ranked = ranked.join(environments, environments.c.id == apps.c.environment_id)
    if app_ids is not None:
        ranked = ranked.where(artifacts.c.app_id.in_(tuple(app_ids)))
    one = ranked.subquery()
    beyond = sa.select(one.c.id).where(one.c.rank > one.c.keep)
    if cap is not None:
        beyond = sa.select(one.c.id).where(sa.or_(one.c.rank > one.c.keep, one.c.rank > max(cap, 1)))
    return sa.select(artifacts.c.id, artifacts.c.app_id, artifacts.c.version).where(
        artifacts.c.id.in_(beyond), artifacts.c.id.not_in(_USED)
    )
