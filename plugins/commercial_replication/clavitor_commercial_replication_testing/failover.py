"""A pair that fails over: quick heartbeats and comparisons, every alert heard, and the steps of a drill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from clavitor_commercial_replication import asking, promotion, reseed, state, status
from clavitor_commercial_replication.models import Role
from clavitor_commercial_replication.reseed import Reseeded
from clavitor_commercial_replication.status import Facts

from clavitor_commercial_replication_testing.apps import Pair, Pop, fresh_database, pair, until
from clavitor_commercial_replication_testing.clocks import QuickClock
from clavitor_host.api import Alert, Plugin, hookimpl

MIXTURES = ("sqlite-sqlite", "postgresql-postgresql", "sqlite-postgresql", "postgresql-sqlite")

QUICK = {"heartbeat_interval": "0.2", "compare_interval": "0.1"}


class Ears(Plugin):
    """A plugin that hears every alert."""

    name = "ears"
    version = "1.0"

    def __init__(self) -> None:
        self.heard: list[Alert] = []

    @hookimpl
    async def alert_operator(self, alert: Alert) -> None:
        self.heard.append(alert)


def heard(pop: Pop, kind: str) -> list[Alert]:
    """Return the alerts of a type that this POP has raised since its start."""
    record = pop.host.registry.get("ears")
    assert record is not None and isinstance(record.plugin, Ears)
    return [alert for alert in record.plugin.heard if alert.type == kind]


@asynccontextmanager
async def drill(folder: Path, mixture: str = MIXTURES[0], **more: str) -> AsyncIterator[Pair]:
    """Start a pair. mixture: the databases of both; more: keys of both configurations."""
    first, second = mixture.split("-")
    keys = {**QUICK, **more}
    async with (
        fresh_database(first, folder, "one") as one,
        fresh_database(second, folder, "two") as two,
        pair(folder, Ears, primary_url=one, backup_url=two, primary=keys, backup=keys, clock=QuickClock()) as made,
    ):
        yield made


async def facts(pop: Pop) -> Facts:
    """Return how replication stands at a POP."""
    found = await status.facts_of(pop.service)
    assert found is not None
    return found


async def until_role(pop: Pop, role: Role) -> None:
    async def so() -> bool:
        return (await state.required(pop.host.db)).role == role

    await until(so)


async def until_well(*pops: Pop) -> None:
    """Wait until nothing is wrong with any of them."""
    for pop in pops:

        async def so(pop: Pop = pop) -> bool:
            return (await status.report(pop.service))["healthy"] is True

        await until(so)


async def fail_over(pops: Pair) -> tuple[Pop, Pop]:
    """Promote the backup while nobody hears of it; return the old and the new primary, both of which take writes."""
    pops.network.cut = True
    await promotion.promote(pops.backup.service, force=True)
    return pops.primary, pops.backup


async def refill(pop: Pop) -> Reseeded:
    """Re-seed a POP as the command does."""
    url = asking.url_of(pop.service)
    async with asking.linked(pop.service, url) as link:
        return await reseed.reseed(pop.service, link, await reseed.plan(pop.service, link, url))


async def assert_equal(one: Pop, other: Pop) -> None:
    """Assert that both have the same entries, tombstones and hashes, and that each is sound by itself."""

    async def so() -> bool:
        return await one.depth() == await other.depth() == 0 and await one.entries() == await other.entries()

    await until(so)
    for pop in (one, other):
        await pop.check()
    assert await state.buckets(one.host.db) == await state.buckets(other.host.db)


async def audited(pop: Pop, action: str) -> list[dict[str, Any]]:
    """Return the audit rows of an action, oldest first."""
    rows = await pop.host.db.fetch_all(
        "SELECT * FROM audit_log WHERE category = 'REPLICATION' AND action = :action ORDER BY id", {"action": action}
    )
    return [dict(row) for row in rows]
