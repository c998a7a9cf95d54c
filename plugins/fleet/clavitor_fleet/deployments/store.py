"""Reading deployments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.apps.models import Placed
from clavitor_fleet.apps.tables import apps
from clavitor_fleet.deployments.models import HOLDING, Deployment
from clavitor_fleet.deployments.tables import deployments
from clavitor_fleet.errors import not_found
from clavitor_fleet.lists import Page, fetch_page

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction

CHANGED: Final = "fleet.deployments"
"""The signal that a runtime is to be told of something."""

COLUMNS: Final = tuple(deployments.c[name] for name in Deployment._fields)


class Only(NamedTuple):
    """Which deployments are wanted; None: whatever it is."""

    environment_id: str | None = None
    app_id: str | None = None
    status: str | None = None


async def list_deployments(host: Host, page: Page, only: Only) -> tuple[Sequence[Placed[Deployment]], str | None]:
    """Return a page of deployments in the order they were made, and the next cursor."""
    query = PLACED
    for column, value in zip((apps.c.environment_id, deployments.c.app_id, deployments.c.status), only, strict=True):
        if value is not None:
            query = query.where(column == value)
    return await fetch_page(host, query, deployments.c.id, page, placed_of)


async def get_deployment(host: Host, deployment_id: str) -> Placed[Deployment]:
    """Return a deployment. Raises a 404."""
    row = await host.db.fetch_one(PLACED.where(deployments.c.id == deployment_id))
    if row is None:
        raise not_found("deployment")
    return placed_of(row)


async def locked_deployment(tx: Transaction, deployment_id: str) -> Deployment:
    """Return a deployment whose row this transaction then holds. Raises a 404."""
    row = await tx.fetch_one(sa.select(*COLUMNS).where(deployments.c.id == deployment_id).with_for_update())
    if row is None:
        raise not_found("deployment")
    return deployment_of(row)


def unfinished(host: Host) -> sa.ColumnElement[bool]:
    """Return the condition of deployments that have not ended, or whose runtime does not know yet that they have."""
    holding = deployments.c.status.in_(HOLDING)
    return sa.or_(holding, deployments.c.reconcile_at.is_not(None)) if has_runtime(host) else holding


def has_runtime(host: Host) -> bool:
    """Return whether a plugin is a runtime now. Without one nobody is waited for that was to be told of something."""
    return host.hooks.has("deployment_runtime")


def deployment_of(row: Mapping[str, Any]) -> Deployment:
    """Return a stored row as a `Deployment`."""
    return Deployment(**{name: row[name] for name in Deployment._fields})


def placed_of(row: Mapping[str, Any]) -> Placed[Deployment]:
    """Return a stored row, joined with its app, as a `Placed`."""
    return Placed(deployment_of(row), row["environment_id"])


PLACED: Final = sa.select(*COLUMNS, apps.c.environment_id).join(apps, apps.c.id == deployments.c.app_id)
