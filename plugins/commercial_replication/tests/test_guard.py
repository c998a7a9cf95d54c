"""A POP that is not the primary refuses what clients would change, on every route, and says how old its reads are."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_commercial_replication import state
from clavitor_commercial_replication_testing.apps import (
    BACKUP_URL,
    PRIMARY_URL,
    Pop,
    backup_settings,
    primary_settings,
    running_pop,
)
from clavitor_commercial_replication_testing.backup import T0, Backup, bearer, blob, item
from clavitor_commercial_replication_testing.network import Network
from clavitor_fleet.plugin import FleetPlugin
from clavitor_licensing.plugin import Licensing
from quart import Blueprint

from clavitor_host.api import Host, Plugin, Request, endpoint, hookimpl

MESSAGE = "Write operations not available on backup POP"
OWN = {
    "/api/replication/apply",
    "/api/v1/login",
    "/api/v1/logout",
    "/api/v1/setup",
    "/login",
    "/logout",
    "/setup",
}
"""What only this server is about, besides the prefixes below."""
OWN_PREFIXES = (
    "/api/replication/",
    "/api/v1/admin/users",
    "/api/v1/admin/tokens",
    "/api/v1/admin/license",
    "/api/v1/license",
    "/api/v1/me",
    "/admin/users",
    "/admin/tokens",
    "/account",
    "/admin/license",
)


class Foreign(Plugin):
    """A plugin with a route of its own making, one without a credential, and one of an action nobody knows."""

    name = "foreign"
    version = "1.0.0"

    @hookimpl
    def blueprints(self, host: Host) -> list[Blueprint]:
        foreign = Blueprint("foreign", __name__)

        @foreign.post("/foreign/raw")
        async def raw() -> str:
            return "written"

        @foreign.post("/foreign/public")
        @endpoint(action=None, summary="Anybody")
        async def public(request: Request) -> dict[str, Any]:
            return {}

        return [foreign]


@pytest.fixture
async def everything(tmp_path: Path) -> AsyncIterator[Pop]:
    """A backup with the plugins of the commercial bundle."""
    async with running_pop(tmp_path, backup_settings(), FleetPlugin, Licensing, Foreign) as pop:
        yield pop


def mutating(pop: Pop) -> list[tuple[str, str]]:
    """Return every method and path of the application that may change something."""
    return sorted(
        (method, re.sub(r"<[^>]*>", "a", rule.rule))
        for rule in pop.web.url_map.iter_rules()
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
    )


async def logged_in(pop: Pop) -> httpx.AsyncClient:
    """Return a client with an administrator's session, as a browser has."""
    from clavitor_host.identity.models import SYSTEM, Role
    from clavitor_host.identity.users import create_user

    password = "correct horse battery staple"
    await create_user(pop.host, name="root", role=Role.ADMIN, password=password, requested_by=SYSTEM)
    client = await pop.client(headers={"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8400"})
    answer = await client.post("/login", data={"name": "root", "password": password, "next": ""})
    assert answer.status_code == 303, answer.text
    return client


async def test_every_route_that_changes_something_is_refused(everything: Pop) -> None:
    token = await everything.client_for("ADMIN")
    browser = await logged_in(everything)
    routes = mutating(everything)
    assert len(routes) > 40
    refused = 0
    for method, path in routes:
        if path in OWN or path.startswith(OWN_PREFIXES):
            continue
        client = token if path.startswith(("/api/", "/foreign/")) else browser
        response = await client.request(method, path)
        assert response.status_code == 503, (method, path, response.text)
        assert response.headers["x-primary-location"] == PRIMARY_URL, (method, path)
        if path.startswith(("/api/", "/foreign/")):
            assert response.headers["content-type"] == "application/problem+json"
            body = response.json()
            assert (body["status"], body["code"], body["detail"]) == (503, "read_only", MESSAGE)
        else:
            assert MESSAGE in response.text
        refused += 1
    assert refused > 25


async def test_what_is_the_nodes_own_is_not_refused(everything: Pop) -> None:
    token = await everything.client_for("ADMIN")
    browser = await logged_in(everything)
    own = [(method, path) for method, path in mutating(everything) if path in OWN or path.startswith(OWN_PREFIXES)]
    assert {path for _, path in own} >= OWN
    for method, path in own:
        client = token if path.startswith("/api/") else browser
        response = await client.request(method, path)
        assert response.status_code != 503, (method, path, response.text)
        assert "x-primary-location" not in response.headers


async def test_the_refusal_comes_before_the_role_and_after_the_credential(everything: Pop) -> None:
    viewer = await everything.client_for("VIEWER")
    assert (await viewer.put("/api/entries/a", json={"encrypted_data": blob()})).status_code == 503
    nobody = await everything.client()
    assert (await nobody.put("/api/entries/a", json={"encrypted_data": blob()})).status_code == 401


async def test_on_a_primary_nothing_is_refused(lone_primary: Pop) -> None:
    client = await lone_primary.client_for("ADMIN")
    assert (await client.put("/api/entries/a", json={"encrypted_data": blob()})).status_code in (200, 201)
    response = await client.get("/api/entries/a")
    assert response.status_code == 200
    assert "x-clavitor-lag" not in response.headers


async def test_with_replication_off_nothing_is_refused(tmp_path: Path) -> None:
    async with running_pop(tmp_path, {}) as pop:
        client = await pop.client_for("ADMIN")
        assert (await client.put("/api/entries/a", json={"encrypted_data": blob()})).status_code in (200, 201)
        assert (await client.get("/api/entries/a", headers={"x-min-rev": "99"})).status_code == 200


async def test_a_fenced_primary_sends_clients_to_the_other_pop(tmp_path: Path) -> None:
    async with running_pop(tmp_path, primary_settings(), network=Network()) as pop:
        await pop.put("a")
        client = await pop.client_for("ADMIN")
        assert (await client.get("/api/entries/a")).status_code == 200
        async with pop.host.db.transaction() as tx:
            await state.update(tx, role="fenced")
            await state.update_peer(tx, acked_at=T0 * 1_000_000)
            await pop.host.signals.send(tx, state.CHANGED)
        response = await client.put("/api/entries/a", json={"encrypted_data": blob()})
        assert (response.status_code, response.headers["x-primary-location"]) == (503, BACKUP_URL)
        response = await client.get("/api/entries/a", headers={"x-min-rev": "1"})
        assert (response.status_code, response.headers["x-clavitor-as-of"]) == (200, "2025-04-02T01:20:00.000000Z")


# --- reads ---------------------------------------------------------------------------------------------------


async def test_reads_say_how_old_they_may_be_and_are_counted(backup: Backup) -> None:
    await backup.applied(item("a", 1))
    await known(backup, as_of=T0 * 1_000_000 + 42)
    client = await backup.client_for("VIEWER")
    response = await client.get("/api/entries/a")
    assert response.status_code == 200
    assert response.headers["x-clavitor-as-of"] == "2025-04-02T01:20:00.000042Z"
    lag = backup.host.clock.now_us() / 1_000_000 - T0
    assert abs(float(response.headers["x-clavitor-lag"]) - lag) < 60
    assert re.fullmatch(r"\d+\.\d{3}", response.headers["x-clavitor-lag"])
    for path in ("/api/entries", "/api/changes"):
        found = await client.get(path)
        assert found.status_code == 200 or found.status_code == 404, path
    missing = await client.get("/api/entries/none")
    assert (missing.status_code, "x-clavitor-as-of" in missing.headers) == (404, True)
    assert await counted(backup) >= 2


async def known(backup: Backup, **peer: int) -> None:
    """Have the backup know how far it has what the primary wrote."""
    async with backup.host.db.transaction() as tx:
        await state.update_peer(tx, **peer)


async def counted(pop: Pop) -> float:
    client = await pop.client_for("ADMIN")
    text = (await client.get("/api/v1/prometheus")).text
    found = re.search(r"^clavitor_replication_fallback_reads_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("when", ["nothing heard yet", "re-seeding"])
async def test_a_backup_that_does_not_know_how_old_it_is_says_so(backup: Backup, when: str) -> None:
    """A reply without the headers is the primary's."""
    if when == "re-seeding":
        await known(backup, as_of=T0 * 1_000_000)
        async with backup.host.db.transaction() as tx:
            await state.update(tx, reseed_from=BACKUP_URL)
    client = await backup.client_for("VIEWER")
    response = await client.get("/api/entries/a")
    assert response.headers["x-clavitor-as-of"] == "1970-01-01T00:00:00.000000Z"
    assert float(response.headers["x-clavitor-lag"]) > 1e9


async def test_how_old_reads_are_is_never_in_the_future(backup: Backup) -> None:
    await known(backup, as_of=backup.host.clock.now_us() + 3_600_000_000)
    client = await backup.client_for("VIEWER")
    response = await client.get("/api/entries/a")
    assert response.headers["x-clavitor-as-of"] <= datetime.now(UTC).isoformat()
    assert response.headers["x-clavitor-lag"] == "0.000"


async def test_a_rev_that_the_former_primary_may_have_kept_is_not_reached_after_a_promotion(lone_primary: Pop) -> None:
    async with lone_primary.host.db.transaction() as tx:
        await lone_primary.host.vault.lock(tx)
        await lone_primary.host.vault.advance(tx, 1_000_000_000)
        await state.update(tx, head_rev=1_000_000_000, promoted_complete_rev=5, promoted_from_rev=1_000_000_000)
    change = await lone_primary.put("a")
    client = await lone_primary.client_for("VIEWER")
    for rev, status in ((5, 200), (6, 412), (1_000_000_000, 412), (change.rev, 200), (change.rev + 1, 412)):
        response = await client.get("/api/entries/a", headers={"x-min-rev": str(rev)})
        assert response.status_code == status, rev
        assert status == 200 or response.json()["rev"] == (5 if rev <= 1_000_000_000 else change.rev)


async def test_what_the_other_pop_asks_knows_no_other_credential(backup: Backup) -> None:
    client = await backup.client_for("ADMIN")
    for method, path in (("POST", "/api/replication/apply"), ("GET", "/api/replication/versions")):
        response = await client.request(method, path, json={})
        assert (response.status_code, response.json()["code"]) == (401, "unauthorized")


async def test_a_read_after_ones_own_write_waits_for_nothing_and_is_told(backup: Backup) -> None:
    await backup.applied(item("a", 1), item("b", 3))
    await known(backup, complete_rev=3)
    client = await backup.client_for("VIEWER")
    for rev, status in (("0", 200), ("3", 200), ("4", 412)):
        response = await client.get("/api/entries/a", headers={"x-min-rev": rev})
        assert response.status_code == status
    assert (response.json()["code"], response.json()["rev"]) == ("behind", 3)
    for wrong in ("", "-1", "1.0", "one", "9" * 20, "\u0661"):
        response = await client.get("/api/entries/a", headers=[(b"x-min-rev", wrong.encode())])
        assert (response.status_code, response.json()["code"]) == (400, "invalid_header"), wrong


async def test_while_a_reseed_is_under_way_no_rev_is_reached(backup: Backup) -> None:
    await backup.applied(item("a", 1))
    await known(backup, complete_rev=1)
    async with backup.host.db.transaction() as tx:
        await state.update(tx, reseed_from=BACKUP_URL)
    client = await backup.client_for("VIEWER")
    assert (await client.get("/api/entries/a", headers={"x-min-rev": "1"})).status_code == 412


async def test_on_a_primary_the_head_counts(lone_primary: Pop) -> None:
    change = await lone_primary.put("a")
    client = await lone_primary.client_for("VIEWER")
    for rev, status in ((change.rev, 200), (change.rev + 1, 412)):
        response = await client.get("/api/entries/a", headers={"x-min-rev": str(rev)})
        assert response.status_code == status


async def test_a_primarys_reads_ask_for_the_role_once_a_second(
    lone_primary: Pop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_commercial_replication import guard

    asked = 0
    read = lone_primary.host.db.point_read

    async def counting(statement: Any, *args: Any) -> Any:
        nonlocal asked
        asked += statement is guard._STANDING
        return await read(statement, *args)

    monkeypatch.setattr(lone_primary.host.db, "point_read", counting)
    monkeypatch.setattr(guard, "FRESH", 3600.0)
    client = await lone_primary.client_for("VIEWER")
    for _ in range(5):
        await client.get("/api/entries/a")
    assert asked == 1
    async with lone_primary.host.db.transaction() as tx:
        await lone_primary.host.signals.send(tx, state.CHANGED)
    await client.get("/api/entries/a")
    assert asked == 2


async def test_the_other_pops_requests_are_no_reads_of_clients(backup: Backup) -> None:
    await backup.applied(item("a", 1))
    client = await backup.client(headers={"authorization": bearer("calgary-01", backup.host.clock.now_us())})
    await client.get("/api/entries/a")
    assert await counted(backup) == 0
