"""Apps: the rules, each change in one transaction with its audit row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.apps.models import App
from clavitor_fleet.apps.tables import apps
from clavitor_fleet.environments.service import require_environment
from clavitor_fleet.errors import in_use, not_found, taken, unknown_reference
from clavitor_fleet.lists import Page, fetch_page
from clavitor_fleet.records import record
from clavitor_host.api import clean_name, name_key, new_id

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Transaction

_COLUMNS = tuple(apps.c[name] for name in App._fields)
_COUNT = sa.select(sa.func.count()).select_from(apps)


async def create_app(host: Host, *, environment_id: str, name: str, requested_by: Identity) -> App:
    """Add an app. Raises a 400 for a bad name, 409 for one that is taken in the environment, 422 for an environment
    that is not there, and 403 for the cap."""
    clean = clean_name(name)
    async with host.db.transaction() as tx:
        await host.assert_within_cap(tx, "max_apps", 1, requested_by.actor)
        environment = await require_environment(tx, environment_id)
        await _assert_name_free(tx, environment_id, clean)
        now = host.clock.now_us()
        made = App(new_id(host), environment_id, clean, now, now)
        await tx.execute(sa.insert(apps).values(**made._asdict(), name_key=name_key(clean)))
        payload = {"app_id": made.id, "environment_id": environment_id}
        title = f"created app {clean} in {environment.name}"
        await record(host, tx, requested_by, "create_app", title=title, payload=payload)
        return made


async def list_apps(host: Host, page: Page, *, environment_id: str | None) -> tuple[Sequence[App], str | None]:
    """Return a page of apps in the order they were made, and the next cursor. environment_id: only its apps."""
    query = sa.select(*_COLUMNS)
    if environment_id is not None:
        query = query.where(apps.c.environment_id == environment_id)
    return await fetch_page(host, query, apps.c.id, page, app_of)


async def get_app(host: Host, app_id: str) -> App:
    """Return an app. Raises a 404."""
    row = await host.db.fetch_one(sa.select(*_COLUMNS).where(apps.c.id == app_id))
    if row is None:
        raise not_found("app")
    return app_of(row)


async def rename_app(host: Host, app_id: str, name: str, *, requested_by: Identity) -> App:
    """Give an app another name. Raises a 404, 409 for one that is taken."""
    clean = clean_name(name)
    async with host.db.transaction() as tx:
        before = await locked_app(tx, app_id)
        if clean == before.name:
            return before
        if name_key(clean) != name_key(before.name):
            await _assert_name_free(tx, before.environment_id, clean)
        now = host.clock.now_us()
        change = sa.update(apps).where(apps.c.id == app_id)
        await tx.execute(change.values(name=clean, name_key=name_key(clean), updated_at=now))
        payload = {"app_id": app_id, "name": clean, "was": {"name": before.name}}
        await record(host, tx, requested_by, "update_app", title=f"changed app {before.name}", payload=payload)
        return before._replace(name=clean, updated_at=now)


async def delete_app(host: Host, app_id: str, *, requested_by: Identity) -> None:
    """Remove an app that nothing uses. Raises a 404, 409."""
    from clavitor_fleet.agents.service import count_present_agents, forget_gone_agents
    from clavitor_fleet.alerts.tables import alert_rules
    from clavitor_fleet.artifacts.service import count_artifacts
    from clavitor_fleet.deployments.service import count_holding_deployments, forget_ended_deployments

    async with host.db.transaction() as tx:
        app = await locked_app(tx, app_id)
        used_by = {
            "artifacts": await count_artifacts(tx, app_id),
            "agents": await count_present_agents(tx, app_id),
            "deployments": await count_holding_deployments(host, tx, app_id),
            "alert_rules": int(await tx.fetch_val(sa.select(sa.func.count()).where(alert_rules.c.app_id == app_id))),
        }
        if any(used_by.values()):
            raise in_use("app", used_by)
        await forget_gone_agents(tx, app_id)
        await forget_ended_deployments(tx, app_id)
        await tx.execute(sa.delete(apps).where(apps.c.id == app_id))
        payload = {"app_id": app_id, "environment_id": app.environment_id}
        await record(host, tx, requested_by, "delete_app", title=f"deleted app {app.name}", payload=payload)


async def require_app(tx: Transaction, app_id: str, field: str = "app_id") -> App:
    """Return an app that stays to the end of the transaction. Raises a 422 that names the field."""
    row = await tx.fetch_one(sa.select(*_COLUMNS).where(apps.c.id == app_id).with_for_update(read=True))
    if row is None:
        raise unknown_reference(field, "app")
    return app_of(row)


async def locked_app(tx: Transaction, app_id: str) -> App:
    """Return an app whose row this transaction then holds. Raises a 404."""
    row = await tx.fetch_one(sa.select(*_COLUMNS).where(apps.c.id == app_id).with_for_update())
    if row is None:
        raise not_found("app")
    return app_of(row)


async def count_apps(tx: Transaction) -> int:
    """Return how many apps there are: what `max_apps` counts."""
    return int(await tx.fetch_val(_COUNT))


def app_of(row: Mapping[str, Any]) -> App:
    """Return a stored row as an `App`."""
    return App(**{name: row[name] for name in App._fields})


async def _assert_name_free(tx: Transaction, environment_id: str, name: str) -> None:
    mine = sa.select(apps.c.id).where(apps.c.environment_id == environment_id, apps.c.name_key == name_key(name))
    if await tx.fetch_one(mine) is not None:
        raise taken("app")
