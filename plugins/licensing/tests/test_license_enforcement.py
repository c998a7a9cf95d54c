"""LicenseEnforcerTest and LicenseEnforcementIT of the seed's section 10: every cap, in every state."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_licensing.changes import LicenseChanges
from clavitor_licensing.domain.limits import DEFAULT_TIER_LIMITS, LIMITS, VALUE_LIMITS
from clavitor_licensing.plugin import Licensing
from clavitor_licensing_testing.server import (
    DAY,
    LICENSE,
    NOW,
    USAGE,
    USERS,
    FrozenClock,
    Log,
    Server,
    Start,
    bundle,
    environ,
    token,
)

from clavitor_host.api import CapExceeded, Problem
from clavitor_host.app import create_host
from clavitor_host.audit.verify import verify
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from clavitor_host.testing import settings
from tests.identity.idp import CLIENT_ID, CLIENT_SECRET, Provider, running

COUNTED = [limit for limit in LIMITS if limit not in VALUE_LIMITS and limit != "max_users"]


async def attempt(server: Server, limit: str, delta: int, by: str = "tester") -> CapExceeded | None:
    """Try to create; return the refusal."""
    try:
        async with server.host.db.transaction() as tx:
            await server.host.assert_within_cap(tx, limit, delta, by)
    except CapExceeded as refusal:
        return refusal
    return None


async def command(folder: Path, variables: dict[str, str], clock: FrozenClock, name: str) -> CapExceeded | None:
    """Make a user as `clavitor user create` does; return the refusal."""
    app = create_host(settings(folder / "data", bundle(), variables), bundle(), clock=clock)
    await app.start(offline=True)
    try:
        await create_user(app.host, name=name, role=Role.VIEWER, requested_by=SYSTEM)
    except CapExceeded as refusal:
        return refusal
    finally:
        await app.stop()
    return None


def explicit(refusal: CapExceeded) -> dict[str, Any]:
    return {name: refusal.body()[name] for name in ("error", "limit", "current", "cap", "state", "message")}


async def test_users_up_to_the_default_tier_and_not_one_more(server: Server) -> None:
    for name in ("a", "b"):  # with the administrator they are three
        assert (await server.create_user(name)).status_code == 201
    refused = await server.create_user("c")
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"
    message = "No license installed: default tier applies (cap = 3 for max_users). Install a license to raise this."
    assert refused.json() == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "code": "license_cap_reached",
        "detail": message,
        "error": "license cap reached",
        "limit": "max_users",
        "current": 3,
        "cap": 3,
        "state": "ABSENT",
        "message": message,
    }
    # The answer came after the row was durable.
    assert await server.audit() == [
        {
            "action": "cap_exceeded",
            "actor": "admin",
            "limit": "max_users",
            "current": 3,
            "cap": 3,
            "requestedBy": "admin",
            "state": "ABSENT",
        }
    ]
    assert (await server.metrics())['cap_rejections_total{limit="max_users"}'] == 1
    users = {user["name"]: user["id"] for user in (await server.get(USERS))["users"]}
    assert sorted(users) == ["a", "admin", "b"]
    assert (await verify(server.host.db)).ok
    assert (await server.admin.delete(f"{USERS}/{users['b']}")).status_code == 204  # a reduction always passes
    assert (await server.create_user("c")).status_code == 201


async def test_the_message_of_the_refusal_tells_the_state(start: Start, clock: FrozenClock) -> None:
    server = await start()

    async def refusal() -> dict[str, Any]:
        body: dict[str, Any] = (await server.create_user("one-more")).json()
        return {name: body[name] for name in ("current", "cap", "state", "message")}

    await server.install(token(exp=NOW + 10 * DAY, grace=30, limits={"max_users": 1}))
    assert await refusal() == {
        "current": 1,
        "cap": 1,
        "state": "ACTIVE",
        "message": "License cap reached: max_users = 1. Current usage is 1. Contact your vendor to raise the cap.",
    }
    clock.now += 15 * DAY
    assert await refusal() == {
        "current": 1,
        "cap": 1,
        "state": "GRACE",
        "message": "License expired 5 days ago and is in its grace period (ends in 25 days). Cap unchanged at 1. "
        "Renew before grace ends.",
    }
    clock.now += 26 * DAY
    for name in ("a", "b"):
        assert (await server.create_user(name)).status_code == 201  # now the default tier allows three
    assert await refusal() == {
        "current": 3,
        "cap": 3,
        "state": "EXPIRED",
        "message": "License expired 31 days ago: system reverted to default tier (cap = 3 for max_users). "
        "Current usage is 3. Renew the license to lift the cap.",
    }
    await server.install("x", expect=400)
    found = await refusal()
    assert (found["current"], found["cap"], found["state"]) == (3, 3, "INVALID")
    assert found["message"].startswith("License rejected (License token is malformed: ")
    assert found["message"].endswith(": default tier applies (cap = 3 for max_users). Fix the license to raise this.")
    assert {row["state"] for row in await server.audit("cap_exceeded")} == {"ACTIVE", "GRACE", "EXPIRED", "INVALID"}


@pytest.mark.parametrize("limit", COUNTED)
async def test_every_counted_limit(quick_start: Start, limit: str) -> None:
    """Under the cap, at the cap, above it; default tier, and lifted by a license that leaves the others out."""
    server = await quick_start()
    default = DEFAULT_TIER_LIMITS[limit]
    server.neighbour.counts = {limit: default - 1}
    assert await attempt(server, limit, 1) is None
    refusal = await attempt(server, limit, 2)
    assert refusal is not None
    assert (refusal.status, refusal.current, refusal.cap) == (403, default - 1, default)
    assert server.neighbour.asked[-1] == (limit,)  # nothing else is counted
    await server.install(token(limits={limit: default + 5}))
    assert await attempt(server, limit, 6) is None
    assert await attempt(server, limit, 7) is not None
    other = next(key for key in COUNTED if key != limit)
    server.neighbour.counts = {other: DEFAULT_TIER_LIMITS[other]}
    assert await attempt(server, other, 1) is not None  # what the license leaves out stays as it was
    server.neighbour.counts = {limit: default + 50}
    assert await attempt(server, limit, 0) is None  # reductions pass, also far above the cap
    assert await attempt(server, limit, -1) is None
    assert await attempt(server, limit, 1) is not None


@pytest.mark.parametrize("limit", sorted(VALUE_LIMITS))
async def test_every_limit_on_a_value_is_a_422_with_what_was_asked_for(quick_start: Start, limit: str) -> None:
    server = await quick_start()
    cap = DEFAULT_TIER_LIMITS[limit]
    server.neighbour.counts = {limit: cap + 30}  # what other environments have does not matter
    assert await attempt(server, limit, cap) is None
    refusal = await attempt(server, limit, cap + 7)
    assert refusal is not None and refusal.status == 422
    assert explicit(refusal) == {
        "error": "license cap reached",
        "limit": limit,
        "current": cap + 7,
        "cap": cap,
        "state": "ABSENT",
        "message": f"No license installed: default tier applies (cap = {cap} for {limit}). "
        "Install a license to raise this.",
    }
    await server.install(token(limits={limit: 90}))
    assert await attempt(server, limit, 90) is None
    assert await attempt(server, limit, 91) is not None


async def test_a_limit_that_nobody_knows_is_an_error(quick_start: Start) -> None:
    server = await quick_start()
    with pytest.raises(Problem) as caught:
        await attempt(server, "max_moons", 1)
    assert (caught.value.status, caught.value.code) == (500, "unknown_limit")
    assert await attempt(server, "max_moons", 0) is None
    assert await server.host.effective_cap("max_moons") is None


async def test_when_it_cannot_be_counted_nothing_is_created(quick_start: Start) -> None:
    server = await quick_start()
    server.neighbour.broken = True
    assert (await server.create_user("a")).status_code == 403
    assert await server.audit("cap_exceeded") == []
    server.neighbour.broken = False
    assert (await server.create_user("a")).status_code == 201


async def test_the_refusal_is_recorded_whether_the_transaction_commits_or_not(start: Start) -> None:
    """A deployment that is refused is kept as FAILED: its transaction commits."""
    server = await start()
    server.neighbour.counts = {"max_apps": 3}
    async with server.host.db.transaction() as tx:
        try:
            async with tx.savepoint():
                await server.host.assert_within_cap(tx, "max_apps", 1, "committed")
        except CapExceeded:
            pass
        assert len(await server.audit("cap_exceeded")) == 0
    assert await attempt(server, "max_apps", 1, "rolled back") is not None
    assert [row["requestedBy"] for row in await server.audit("cap_exceeded")] == ["committed", "rolled back"]
    assert (await server.metrics())['cap_rejections_total{limit="max_apps"}'] == 2


async def test_a_client_that_goes_away_does_not_take_the_record_with_it(start: Start) -> None:
    server = await start()
    server.neighbour.counts = {"max_apps": 3}
    tasks = [asyncio.create_task(attempt(server, "max_apps", 1)) for _ in range(8)]
    while not server.neighbour.asked:  # noqa: ASYNC110 - the refusal is imminent
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    counted = (await server.metrics()).get('cap_rejections_total{limit="max_apps"}', 0)
    assert len(await server.audit("cap_exceeded")) == counted


async def test_log_lines_about_refusals_are_sampled_and_the_counter_is_not(
    quick_start: Start, clock: FrozenClock, logged: Log
) -> None:
    server = await quick_start()
    server.neighbour.counts = {"max_apps": 3, "max_agents": 5}

    def lines(message: str) -> list[tuple[str, int]]:
        return [(line["limit"], line["times"]) for line in logged.lines(level="WARNING", message=message)]

    for _ in range(5):
        await attempt(server, "max_apps", 1)
    await attempt(server, "max_agents", 1)
    assert lines("A license cap refused something") == [("max_apps", 1), ("max_agents", 1)]
    clock.ahead += 61
    await attempt(server, "max_apps", 1)
    assert lines("A license cap refused something")[-1] == ("max_apps", 5)
    await attempt(server, "max_apps", 1)
    clock.ahead += 61
    record = server.host.registry.get("licensing")
    assert record is not None and isinstance(record.plugin, Licensing)
    record.plugin._enforcer.flush()
    assert lines("License caps refused more") == [("max_apps", 1)]
    assert (await server.metrics())['cap_rejections_total{limit="max_apps"}'] == 7
    assert len(await server.audit("cap_exceeded")) == 8


async def test_a_license_below_what_is_in_use_is_taken_and_warned_about_once_a_limit(start: Start, logged: Log) -> None:
    server = await start()
    server.neighbour.counts = {"max_apps": 10, "max_agents": 1}
    await server.install(token(limits={"max_apps": 20, "max_users": 5}))
    assert (await server.create_user("a")).status_code == 201
    await server.install(token(limits={"max_apps": 5, "max_users": 1}))
    await server.heard()
    message = "More is in use than the license allows: nothing is deleted, new ones are refused"
    warned = [(line["limit"], line["current"], line["cap"]) for line in logged.lines(level="WARNING", message=message)]
    assert warned == [("max_apps", 10, 5), ("max_users", 2, 1)]
    assert (await server.create_user("b")).status_code == 403
    assert (await server.get(USERS))["users"]  # nobody is gone
    server = await start(stop=server)
    again = [line["limit"] for line in logged.lines(level="WARNING", message=message)][2:]
    assert again == ["max_users"]  # at the start too (the neighbour of this process counts nothing)


async def test_what_a_lower_cap_deletes_is_warned_of_with_the_environments(start: Start, logged: Log) -> None:
    server = await start()
    server.neighbour.counts = {"max_log_retention_days": 30}
    server.neighbour.values = {"max_log_retention_days": {"prod": 30, "dev": 7, "test": 8}}
    await server.install(token(limits={"max_log_retention_days": 7}))
    await server.heard()
    (line,) = [line for line in logged.lines(level="WARNING") if line.get("limit")]
    assert line["message"] == "More is to be kept than the license allows: logs older than 7 days are deleted"
    assert (line["current"], line["cap"], line["environments"]) == (30, 7, ["prod", "test"])


async def test_a_process_that_follows_warns_once_of_what_a_command_has_lowered(start: Start, logged: Log) -> None:
    server = await start()
    server.neighbour.counts = {"max_apps": 10}
    changes = LicenseChanges(server.host)
    await changes.install(
        server.service._keys, token(limits={"max_apps": 5}), by="system", address="", source="command"
    )
    for _ in range(2):
        await server.tick()
    await server.heard()
    await changes.remove(server.service._keys, by="system", address="")
    await server.tick()
    await server.heard()
    warned = [(line["limit"], line["cap"]) for line in logged.lines(level="WARNING") if line.get("limit")]
    assert warned == [("max_apps", 5), ("max_apps", 3)]


async def test_another_process_enforces_a_new_license_at_once(start: Start) -> None:
    """Its memory may be stale, its cap check is not: it reads the version in its own transaction."""
    one, two = await start(), await start()
    for server in (one, two):
        server.service.follow = lambda: None  # type: ignore[method-assign]  # it hears nothing
    await one.install(token(limits={"max_users": 4}))
    assert two.service.state() == "ABSENT"
    for name in ("a", "b", "c"):
        assert (await two.create_user(name)).status_code == 201
    refused = await two.create_user("d")
    assert (refused.status_code, refused.json()["state"], refused.json()["cap"]) == (403, "ACTIVE", 4)
    await one.admin.delete(LICENSE)
    refused = await two.create_user("d")
    assert (refused.json()["state"], refused.json()["cap"]) == ("ABSENT", 3)


async def test_another_process_follows_by_signal_and_tells_its_plugins(start: Start) -> None:
    one, two = await start(), await start()
    await one.heard(), await two.heard()
    await one.install(token())
    async with asyncio.timeout(10):
        while two.service.state() != "ACTIVE":  # noqa: ASYNC110 - what is waited for is a signal between processes
            await asyncio.sleep(0.01)
    assert await two.heard() == [("installed", "ACTIVE")]
    assert (await two.metrics())['state{state="ACTIVE"}'] == 1
    await two.install("x", expect=400)
    assert await one.state() == "INVALID"
    assert await two.state() == "INVALID"


async def test_who_missed_the_signal_finds_it_within_the_minute(start: Start) -> None:
    one, two = await start(), await start()
    two.service.follow = lambda: None  # type: ignore[method-assign]
    await one.install(token())
    await two.heard()
    await two.tick()
    assert two.service.state() == "ACTIVE"
    assert await two.heard() == [("installed", "ACTIVE")]


async def test_requests_that_create_nothing_do_no_license_work(
    quick_start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_licensing import store

    server = await quick_start()
    calls: list[str] = []
    read_state = store.read_state

    async def counting(db: Any) -> Any:
        calls.append("read")
        return await read_state(db)

    monkeypatch.setattr(store, "read_state", counting)
    writer = await server.harness.client_for("OPERATOR")
    calls.clear()  # making that user was a create
    reply = await writer.put("/api/entries/x", json={"encrypted_data": "QUJD"})
    assert reply.status_code < 500
    for path in ("/api/v1/me", "/api/entries", "/healthz", USERS):
        await writer.get(path)
    assert calls == []
    assert (await server.create_user("x")).status_code == 201
    assert calls == ["read"]


async def test_the_effective_cap_is_what_retention_asks_for(server: Server, clock: FrozenClock) -> None:
    assert await server.host.effective_cap("max_log_retention_days") == 1
    await server.install(token(exp=NOW + DAY, grace=1, limits={"max_log_retention_days": 30}))
    assert await server.host.effective_cap("max_log_retention_days") == 30
    clock.now += 2 * DAY
    assert await server.host.effective_cap("max_log_retention_days") == 1


async def test_the_effective_cap_costs_no_look_at_the_database(
    quick_start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await quick_start()
    await server.install(token(limits={"max_log_retention_days": 30}))
    with monkeypatch.context() as without:
        without.setattr(server.host, "db", None)
        assert await server.host.effective_cap("max_log_retention_days") == 30


async def test_offline_commands_go_through_the_same_check_and_write_nothing_besides(
    start: Start, tmp_path: Path, database_url: str, clock: FrozenClock
) -> None:
    server = await start()
    await server.install(token(limits={"max_users": 2}))
    before = await server.get()

    async def create(name: str, **variables: str) -> CapExceeded | None:
        return await command(tmp_path, environ(CLAVITOR_DATABASE_URL=database_url, **variables), clock, name)

    assert await create("a") is None
    refusal = await create("b")
    assert refusal is not None
    assert (refusal.state, refusal.current, refusal.cap) == ("ACTIVE", 2, 2)
    assert str(refusal).startswith("License cap reached: max_users = 2.")
    assert [row["requestedBy"] for row in await server.audit("cap_exceeded")] == ["system"]
    # Without the key it cannot know that the license is good; the server is not told so.
    assert await create("b", CLAVITOR_LICENSE_PUBLIC_KEY="") is None  # the default tier has one more seat
    invalid = await create("c", CLAVITOR_LICENSE_PUBLIC_KEY="")
    assert invalid is not None and invalid.state == "INVALID"
    # Nor does a token of its own count: what the servers decided does.
    shadow = await create("c", CLAVITOR_LICENSE_TOKEN=token(limits={"max_users": 9}))
    assert shadow is not None
    assert (shadow.state, shadow.cap) == ("ACTIVE", 2)
    assert await server.get() == before


async def test_before_the_first_start_of_a_server_a_command_goes_by_its_own_token(
    tmp_path: Path, database_url: str, clock: FrozenClock
) -> None:
    given = environ(CLAVITOR_DATABASE_URL=database_url, CLAVITOR_LICENSE_TOKEN=token(limits={"max_users": 4}))
    for name in ("a", "b", "c", "d"):
        assert await command(tmp_path, given, clock, name) is None
    refusal = await command(tmp_path, given, clock, "e")
    assert refusal is not None
    assert (refusal.state, refusal.cap) == ("ACTIVE", 4)


async def test_a_command_enforces_what_a_request_installed_over_the_token_of_the_environment(
    start: Start, tmp_path: Path, database_url: str, clock: FrozenClock
) -> None:
    high = token(limits={"max_users": 50})
    server = await start(CLAVITOR_LICENSE_TOKEN=high)
    await server.install(token(limits={"max_users": 2}))
    assert (await server.create_user("a")).status_code == 201
    assert (await server.create_user("b")).status_code == 403
    given = environ(CLAVITOR_DATABASE_URL=database_url, CLAVITOR_LICENSE_TOKEN=high)
    refusal = await command(tmp_path, given, clock, "b")
    assert refusal is not None
    assert (refusal.state, refusal.cap) == ("ACTIVE", 2)
    await server.admin.delete(LICENSE)
    refusal = await command(tmp_path, given, clock, "b")
    assert refusal is None  # the default tier has a third seat
    refusal = await command(tmp_path, given, clock, "c")
    assert refusal is not None
    assert (refusal.state, refusal.cap) == ("ABSENT", 3)


@pytest.mark.parametrize("kind", ["refused", "known"])
async def test_a_sign_up_through_an_identity_provider_is_refused_at_the_cap(
    start: Start, clock: FrozenClock, kind: str
) -> None:
    clock.now = time.time()  # the provider's tokens are of now
    later = int(clock.now) + DAY
    async with running(Provider()) as idp:
        server = await start(
            CLAVITOR_PUBLIC_URL="https://vault.test",
            CLAVITOR_OIDC_ISSUER=idp.issuer,
            CLAVITOR_OIDC_CLIENT_ID=CLIENT_ID,
            CLAVITOR_OIDC_CLIENT_SECRET=CLIENT_SECRET,
        )

        async def log_in() -> httpx.Response:
            transport = httpx.ASGITransport(app=server.harness.web, client=("203.0.113.5", 4711))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="https://vault.test") as browser:
                begun = await browser.get("/login/oidc")
                return await browser.get("/login/oidc/callback", params=idp.authorize(begun.headers["Location"]))

        if kind == "known":
            assert (await log_in()).status_code == 200
        await server.install(token(exp=later, limits={"max_users": 1 if kind == "refused" else 2}))
        if kind == "known":
            assert (await log_in()).status_code == 200  # who has a seat keeps it
            idp.subject = "somebody-else"
            idp.profile = {"preferred_username": "else"}
        reply = await log_in()
        assert reply.status_code == 403
        assert "License cap reached: max_users" in reply.text
        assert [row["requestedBy"] for row in await server.audit("cap_exceeded")] == ["oidc"]
        assert (await server.get(USAGE))["limits"][3]["current"] == (1 if kind == "refused" else 2)
