"""Retention: what is to hold, and what was applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from clavitor_fleet.environments.tables import environments
from clavitor_fleet.retention.models import COLUMNS, LIMITS, Policy
from clavitor_fleet.retention.tables import retention_applied, retention_failures
from clavitor_fleet.telemetry.store import Retention, RetentionDays

if TYPE_CHECKING:
    from clavitor_host.api import Host, Row

APPLIED: Final = "fleet.retention"
"""The signal that retention was applied: there may be something to delete."""
LOCK: Final = "clavitor_fleet.retention"
_LONGEST_ERROR: Final = 500


async def policy(host: Host) -> Policy:
    """Return what is to hold now."""
    caps = {kind: await host.effective_cap(limit) for kind, limit in LIMITS.items()}
    columns = [environments.c[column].label(kind) for kind, column in COLUMNS.items()]
    rows = await host.db.fetch_all(sa.select(environments.c.id, *columns))
    return Policy({row["id"]: _days(row) for row in rows}, caps)


async def holds(host: Host, retention: Retention) -> bool:
    """Return whether this is what was applied last, with no failure since."""
    if await host.db.fetch_one(sa.select(retention_failures.c.id)) is not None:
        return False
    rows = await host.db.fetch_all(sa.select(*retention_applied.c))
    return {row["environment_id"]: _days(row) for row in rows} == retention


async def note_applied(host: Host, retention: Retention) -> None:
    """Remember what was applied, and have what is over deleted, wherever that is done."""
    now = host.clock.now_us()
    async with host.db.transaction() as tx:
        await tx.lock(LOCK)
        await tx.execute(sa.delete(retention_failures))
        known = {row["environment_id"]: _days(row) for row in await tx.fetch_all(sa.select(*retention_applied.c))}
        gone = retention_applied.c.environment_id.in_(sorted(known.keys() - retention.keys()))
        await tx.execute(sa.delete(retention_applied).where(gone))
        rows: list[dict[str, Any]] = [
            {"environment_id": one, **days._asdict(), "applied_at": now}
            for one, days in sorted(retention.items())
            if known.get(one) != days
        ]
        columns = (*RetentionDays._fields, "applied_at")
        await tx.insert_many(retention_applied, rows, upsert_on=("environment_id",), update=columns)
        await host.signals.send(tx, APPLIED)


async def note_failure(host: Host, error: str) -> None:
    """Remember that what is to hold could not be applied. error: one line."""
    async with host.db.transaction() as tx:
        row = {"id": 1, "error": error[:_LONGEST_ERROR], "failed_at": host.clock.now_us()}
        await tx.insert_many(retention_failures, [row], upsert_on=("id",), update=("error", "failed_at"))


async def report(host: Host, *, only: str | None) -> dict[str, Any]:
    """Return what is configured, what caps say, what is in force, since when, and why that is not what it should be.

    only: the one environment that the caller reaches, None for all.
    """
    wanted = await policy(host)
    rows = {row["environment_id"]: row for row in await host.db.fetch_all(sa.select(*retention_applied.c))}
    failure = await host.db.fetch_one(sa.select(retention_failures.c.error, retention_failures.c.failed_at))
    names = await host.db.fetch_all(sa.select(environments.c.id, environments.c.name).order_by(environments.c.id))
    return {
        "environments": [
            {
                "environment_id": one["id"],
                "name": one["name"],
                "applied_at": rows[one["id"]]["applied_at"] if one["id"] in rows else None,
                **{kind: _state(kind, one["id"], wanted, rows.get(one["id"])) for kind in LIMITS},
            }
            for one in names
            if one["id"] in wanted.configured and only in (None, one["id"])
        ],
        "error": failure and failure["error"],
        "failed_at": failure and failure["failed_at"],
    }


def _state(kind: str, environment_id: str, wanted: Policy, row: Row | None) -> dict[str, int | None]:
    return {
        "configured": getattr(wanted.configured[environment_id], kind),
        "cap": wanted.caps[kind],
        "effective": getattr(wanted.effective[environment_id], kind),
        "applied": None if row is None else row[kind],
    }


def _days(row: Row) -> RetentionDays:
    return RetentionDays(row["execution"], row["log"], row["metric"])
