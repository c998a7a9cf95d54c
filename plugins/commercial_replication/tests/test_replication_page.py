"""`/admin/replication` as a browser shows it at each role. It has no script and no form of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from clavitor_commercial_replication import queue
from clavitor_commercial_replication_testing.apps import Pair, Pop, bundle, until
from clavitor_commercial_replication_testing.failover import drill, facts, fail_over, until_role, until_well

from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from clavitor_host.testing import running_app, settings
from tests.web.visitor import PASSWORD, Visitor

PAGE = "/admin/replication"


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path, heartbeat_interval="2") as made:
        await made.primary.put("a")
        await made.settled()
        await until_well(made.primary, made.backup)
        yield made


async def visit(pop: Pop, role: str = "ADMIN") -> Visitor:
    name = role.lower()
    if name not in pop.users:
        await create_user(pop.host, name=name, role=Role(role), password=PASSWORD, requested_by=SYSTEM)
        pop.users[name] = name
    visitor = Visitor(pop)
    await visitor.log_in(name)
    await visitor.open(PAGE)
    return visitor


async def test_a_pair_that_is_well_says_so_on_both_sides(pops: Pair) -> None:
    for pop, role in ((pops.primary, "primary"), (pops.backup, "backup")):
        visitor = await visit(pop)
        text = visitor.page.text
        assert visitor.response.status_code == 200
        assert f"Replication {role}" in text and "All is well" in text
        assert "yes, all 256 hashes" in text and "Epoch 1" in text
        assert PAGE in visitor.page.links
        assert "<script" not in visitor.response.text
        await visitor.client.aclose()


async def test_a_pair_that_is_held_up_is_not_called_well(pops: Pair) -> None:
    pops.network.cut = True

    async def failed() -> bool:
        return (await facts(pops.primary)).last_error is not None

    await pops.primary.put("waits")
    await until(failed)
    visitor = await visit(pops.primary)
    text = visitor.page.text
    assert "All is well" not in text
    assert "Held up just now: it counts as a problem after 1 minute." in text
    await visitor.client.aclose()


async def test_what_waits_and_what_is_refused_is_listed(pops: Pair) -> None:
    pops.network.cut = True
    await pops.primary.put("waits")
    change = await pops.primary.put("<b>refused</b>")
    async with pops.primary.host.db.transaction() as tx:
        await queue.quarantine(tx, change.entry_id, change.rev, "413: too large", 5)
    visitor = await visit(pops.primary)
    text = visitor.page.text
    assert "Refused by the backup" in text and "413: too large" in text and "clavitor replication requeue" in text
    assert "Not confirmed by the backup" in text and "waits" in text
    assert "<b>refused</b>" in text  # as text: the markup is escaped
    assert "<b>refused" not in visitor.response.text
    await visitor.client.aclose()


async def test_a_fenced_primary_says_what_to_do(pops: Pair) -> None:
    old, _ = await fail_over(pops)
    await old.put("only-here")
    pops.network.cut = False
    await until_role(old, "fenced")
    visitor = await visit(old)
    text = visitor.page.text
    assert "Replication fenced" in text and "Only on this POP" in text and "only-here" in text
    assert "clavitor replication replay" in text and "clavitor replication discard" in text
    assert [attrs for tag, attrs in visitor.page.tags if attrs.get("role") == "alert"]
    assert "`" not in text and "<code>clavitor replication unreplicated</code>" in visitor.response.text
    await visitor.client.aclose()


async def test_with_replication_off_it_is_not_in_the_navigation(tmp_path: Path) -> None:
    made = bundle()
    async with running_app(settings(tmp_path / "data", made), made) as app:
        visitor = await visit(Pop(app.app, app.web, app.stack))
        assert "This server replicates nothing" in visitor.page.text
        assert PAGE not in visitor.page.links
        await visitor.client.aclose()
