"""Environments: the rules, each change in one transaction with its audit row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_fleet.environments.models import RETENTION_LIMITS, USUAL_JARS, Environment
from clavitor_fleet.environments.tables import environments
from clavitor_fleet.errors import in_use, not_found, taken, unknown_reference
from clavitor_fleet.lists import Page, fetch_page
from clavitor_fleet.records import record
from clavitor_host.api import Problem, clean_name, name_key, new_id, problem, revoke_tokens

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Transaction

LOCK = "clavitor_fleet.environments"
"""Held by every change of what environments there are, so that nothing is put into one that is being deleted."""
CHANGED = "fleet.environments"
"""The signal that environments or their retention have changed."""

_COLUMNS = tuple(environments.c[name] for name in Environment._fields)
_COUNT = sa.select(sa.func.count()).select_from(environments)


async def create_environment(
    host: Host, *, name: str, environment_id: str | None = None, retention: Mapping[str, int], requested_by: Identity
) -> Environment:
    """Add an environment. retention: its configured values by column; `jar_retention_count` may be left out.

    Raises a 400 for a bad name, 409 for a name or an id that is taken, 403 for the cap on environments, and 422 for a
    retention above its cap.
    """
    clean = clean_name(name)
    now = host.clock.now_us()
    usual = {"jar_retention_count": await _usual_jars(host)}
    async with host.db.transaction() as tx:
        await host.assert_within_cap(tx, "max_environments", 1, requested_by.actor)
        await _assert_retention(host, tx, retention, requested_by)
        await tx.lock(LOCK)
        if environment_id is not None and await find(tx, environment_id) is not None:
            raise taken("environment", "id")
        await _assert_name_free(tx, clean)
        values = {**usual, **retention}
        made = Environment(environment_id or new_id(host), clean, **values, created_at=now, updated_at=now)
        await tx.execute(sa.insert(environments).values(**made._asdict(), name_key=name_key(clean)))
        await host.signals.send(tx, CHANGED)
        payload = {"environment_id": made.id, **values}
        title = f"created environment {clean}"
        await record(host, tx, requested_by, "create_environment", title=title, payload=payload)
        return made


async def list_environments(host: Host, page: Page, *, only: str | None) -> tuple[Sequence[Environment], str | None]:
    """Return a page of environments by id, and the next cursor. only: the one that the caller reaches, None for all."""
    query = sa.select(*_COLUMNS)
    if only is not None:
        query = query.where(environments.c.id == only)
    return await fetch_page(host, query, environments.c.id, page, environment_of)


async def get_environment(host: Host, environment_id: str) -> Environment:
    """Return an environment. Raises a 404."""
    row = await host.db.fetch_one(sa.select(*_COLUMNS).where(environments.c.id == environment_id))
    if row is None:
        raise not_found("environment")
    return environment_of(row)


async def update_environment(
    host: Host, environment_id: str, *, changes: Mapping[str, Any], requested_by: Identity
) -> Environment:
    """Change an environment: its name, or configured values by column.

    A value that grows is checked against its cap (422); one that shrinks always passes, also to one that is still
    above the cap. Raises a 404, 409 for a name that is taken.
    """
    wanted = dict(changes)
    if "name" in wanted:
        wanted["name"] = clean_name(wanted["name"])
    before = await get_environment(host, environment_id)
    async with host.db.transaction() as tx:
        values = {key: value for key, value in wanted.items() if key in RETENTION_LIMITS}
        await _assert_retention(host, tx, values, requested_by, before)
        await tx.lock(LOCK)
        known, before = before, await locked_environment(tx, environment_id)
        if any(getattr(known, key) >= value > getattr(before, key) for key, value in values.items()):
            raise problem(409, "environment_changed", "Somebody has just changed this environment; try again.")
        new = {key: value for key, value in wanted.items() if value != getattr(before, key)}
        if not new:
            return before
        if "name" in new:
            if name_key(new["name"]) != name_key(before.name):
                await _assert_name_free(tx, new["name"])
            new["name_key"] = name_key(new["name"])
        now = host.clock.now_us()
        await tx.execute(
            sa.update(environments).where(environments.c.id == environment_id).values(**new, updated_at=now)
        )
        new.pop("name_key", None)
        await host.signals.send(tx, CHANGED)
        payload = {"environment_id": environment_id, **new, "was": {key: getattr(before, key) for key in new}}
        title = f"changed environment {before.name}"
        await record(host, tx, requested_by, "update_environment", title=title, payload=payload)
        return before._replace(**new, updated_at=now)


async def delete_environment(host: Host, environment_id: str, *, requested_by: Identity) -> None:
    """Remove an environment that nothing uses, with the tokens that reach nothing else. Raises a 404, 409."""
    from clavitor_fleet.alerts.tables import alert_rules
    from clavitor_fleet.apps.tables import apps

    async with host.db.transaction() as tx:
        await tx.lock(LOCK)
        environment = await locked_environment(tx, environment_id)
        used_by = {
            "apps": await _count(tx, apps.c.environment_id, environment_id),
            "alert_rules": await _count(tx, alert_rules.c.environment_id, environment_id),
            "entries": int(await host.vault.entries_in(tx, environment_id)),
        }
        if any(used_by.values()):
            raise in_use("environment", used_by)
        await tx.execute(sa.delete(environments).where(environments.c.id == environment_id))
        await host.signals.send(tx, CHANGED)
        await revoke_tokens(host, tx, environment_id=environment_id, requested_by=requested_by)
        payload = {"environment_id": environment_id}
        title = f"deleted environment {environment.name}"
        await record(host, tx, requested_by, "delete_environment", title=title, payload=payload)


async def find(tx: Transaction, environment_id: str) -> Environment | None:
    """Return an environment as the transaction sees it, if it is there."""
    row = await tx.fetch_one(sa.select(*_COLUMNS).where(environments.c.id == environment_id))
    return None if row is None else environment_of(row)


async def require_environment(tx: Transaction, environment_id: str, field: str = "environment_id") -> Environment:
    """Return an environment that stays to the end of the transaction. Raises a 422 that names the field."""
    query = sa.select(*_COLUMNS).where(environments.c.id == environment_id).with_for_update(read=True)
    row = await tx.fetch_one(query)
    if row is None:
        raise unknown_reference(field, "environment")
    return environment_of(row)


async def locked_environment(tx: Transaction, environment_id: str) -> Environment:
    """Return an environment whose row this transaction then holds. Raises a 404."""
    row = await tx.fetch_one(sa.select(*_COLUMNS).where(environments.c.id == environment_id).with_for_update())
    if row is None:
        raise not_found("environment")
    return environment_of(row)


async def count_environments(tx: Transaction) -> int:
    """Return how many environments there are: what `max_environments` counts."""
    return int(await tx.fetch_val(_COUNT))


async def highest_retention(tx: Transaction) -> dict[str, int]:
    """Return the highest configured value of each retention limit: what is in use of it (0 with no environment)."""
    columns = [
        sa.func.coalesce(sa.func.max(environments.c[column]), 0).label(limit)
        for column, limit in RETENTION_LIMITS.items()
    ]
    row = await tx.fetch_one(sa.select(*columns))
    assert row is not None
    return {limit: int(row[limit]) for limit in RETENTION_LIMITS.values()}


async def configured_retention(tx: Transaction) -> dict[str, dict[str, int]]:
    """Return `{limit: {name of the environment: configured value}}`."""
    rows = await tx.fetch_all(sa.select(*_COLUMNS).order_by(environments.c.id))
    return {limit: {row["name"]: row[column] for row in rows} for column, limit in RETENTION_LIMITS.items()}


def environment_of(row: Mapping[str, Any]) -> Environment:
    """Return a stored row as an `Environment`."""
    return Environment(**{name: row[name] for name in Environment._fields})


async def check_named(tx: Transaction, named: Sequence[tuple[str, str]]) -> None:
    """Raise a 422 unless every environment that the entries of a commit name is there. named: (environment, entry).

    As long as there is no environment at all, entries may name any: the vault is used without a fleet. Locks nothing:
    deleting an environment lets no entry be written meanwhile (`VaultView.entries_in`).
    """
    wanted = dict(named)
    known = {row["id"] for row in await tx.fetch_all(_known(tuple(sorted(wanted))))}
    missing = wanted.keys() - known
    if missing and await count_environments(tx):
        raise _unknown(min(missing), wanted[min(missing)])


def _known(ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(environments.c.id).where(environments.c.id.in_(ids))


def _unknown(environment_id: str, entry_id: str) -> Problem:
    refusal = unknown_reference("environment_id", "environment")
    refusal.extra |= {"environment_id": environment_id, "entry_id": entry_id}
    return refusal


async def _usual_jars(host: Host) -> int:
    """Return how many artifacts an environment keeps that says nothing: never more than the cap in force."""
    cap = await host.effective_cap(RETENTION_LIMITS["jar_retention_count"])
    return USUAL_JARS if cap is None else max(1, min(USUAL_JARS, cap))


async def _assert_retention(
    host: Host,
    tx: Transaction,
    values: Mapping[str, int],
    by: Identity,
    before: Environment | None = None,
) -> None:
    """Raise the 422 of the first value that is set above its cap. What does not grow passes."""
    for column, value in values.items():
        if value > (1 if before is None else getattr(before, column)):
            await host.assert_within_cap(tx, RETENTION_LIMITS[column], value, by.actor)


async def _assert_name_free(tx: Transaction, name: str) -> None:
    if await tx.fetch_one(sa.select(environments.c.id).where(environments.c.name_key == name_key(name))) is not None:
        raise taken("environment")


async def _count(tx: Transaction, column: sa.Column[Any], value: str) -> int:
    return int(await tx.fetch_val(sa.select(sa.func.count()).where(column == value)))
