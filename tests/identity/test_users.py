"""`/api/v1/admin/users` and the service behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.identity import users
from clavitor_host.identity.models import SYSTEM, OidcSubject, Role
from clavitor_host.identity.tables import sessions as sessions_table
from clavitor_host.identity.tables import tokens as tokens_table
from clavitor_host.identity.tables import users as users_table
from tests.identity.conftest import (
    PASSWORD,
    Browser,
    Policies,
    audit_rows,
    everything_stored,
    log_in,
    make_user,
    token_of,
)

USERS = "/api/v1/admin/users"
Clients = Callable[..., Awaitable[httpx.AsyncClient]]


async def test_an_admin_makes_a_user(admin: httpx.AsyncClient, host: Host) -> None:
    reply = await admin.post(USERS, json={"name": "Ada", "role": "OPERATOR", "password": PASSWORD})
    assert reply.status_code == 201
    body = reply.json()
    assert reply.headers["Location"] == f"{USERS}/{body['id']}"
    assert (body["name"], body["role"], body["disabled"], body["has_password"]) == ("Ada", "OPERATOR", False, True)
    assert (await admin.get(reply.headers["Location"])).json() == body
    row = (await audit_rows(host, "create_user"))[-1]
    assert (row["category"], row["actor"], row["title"], row["source"]) == (
        "IDENTITY",
        "admin",
        "created user Ada",
        "127.0.0.1",
    )
    assert json.loads(row["payload"])["user_id"] == body["id"]
    assert PASSWORD not in await everything_stored(host)


async def test_a_name_is_taken_whatever_its_case(admin: httpx.AsyncClient) -> None:
    assert (await admin.post(USERS, json={"name": "Ada", "role": "VIEWER"})).status_code == 201
    for name in ("Ada", "ada", "ADA", "\uff21da"):
        reply = await admin.post(USERS, json={"name": name, "role": "VIEWER"})
        assert (reply.status_code, reply.json()["code"]) == (409, "user_exists")


BAD_FIELDS: list[tuple[dict[str, object], str]] = [
    ({"name": ""}, "name"),
    ({"name": " x"}, "name"),
    ({"name": "a\u0000b"}, "name"),
    ({"name": "x" * 129}, "name"),
    ({"name": "agent:x"}, "name"),
    ({"name": 7}, "name"),
    ({"role": "admin"}, "role"),
    ({"role": None}, "role"),
    ({"password": "short"}, "password"),
    ({"password": "x" * 2000}, "password"),
    ({"disabled": True}, "disabled"),
    ({"id": "x"}, "id"),
]


async def test_a_bad_field_is_named(admin: httpx.AsyncClient) -> None:
    for change, field in BAD_FIELDS:
        reply = await admin.post(USERS, json={"name": "Ada", "role": "VIEWER", **change})
        assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (400, "invalid_field", field)


async def test_a_refused_password_is_not_repeated(admin: httpx.AsyncClient, host: Host) -> None:
    reply = await admin.post(USERS, json={"name": "Ada", "role": "VIEWER", "password": "hunter2!?"})
    assert reply.status_code == 400
    assert "hunter2" not in reply.text
    assert "hunter2" not in await everything_stored(host)


async def test_others_do_not_write_users(client_for: Clients, host: Host) -> None:
    user = await make_user(host, "ada")
    for role, readable in (("VIEWER", 403), ("OPERATOR", 200)):
        other = await client_for(role)
        assert (await other.get(USERS)).status_code == readable
        assert (await other.get(f"{USERS}/{user.id}")).status_code == readable
        for reply in (
            await other.post(USERS, json={"name": "x", "role": "ADMIN"}),
            await other.patch(f"{USERS}/{user.id}", json={"role": "ADMIN"}),
            await other.delete(f"{USERS}/{user.id}"),
            await other.post(f"{USERS}/{user.id}/password", json={"password": PASSWORD}),
        ):
            assert reply.status_code == 403
    assert (await users.get_user(host, user.id)) == user


async def test_pages_show_every_user_once(admin: httpx.AsyncClient, host: Host) -> None:
    made = [(await make_user(host, f"user {number}")).name for number in range(7)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await admin.get(f"{USERS}?limit=3{cursor}")).json()
        seen += [user["name"] for user in page["users"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["admin", *made]


async def test_a_bad_page_is_a_400(admin: httpx.AsyncClient) -> None:
    for query in ("limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=%00", "limit=1&limit=2"):
        assert (await admin.get(f"{USERS}?{query}")).status_code == 400, query


async def test_a_user_is_found_by_name(admin: httpx.AsyncClient, host: Host) -> None:
    user = await make_user(host, "Straße")
    found = (await admin.get(USERS, params={"name": "STRASSE"})).json()["users"]
    assert [one["id"] for one in found] == [user.id]
    assert (await users.get_user_by_name(host, "strasse")).id == user.id
    with pytest.raises(Problem):
        await users.get_user_by_name(host, "nobody\x00")


async def test_a_user_that_is_not_there_is_a_404(admin: httpx.AsyncClient) -> None:
    for user_id in ("x", "%00", "00000000-0000-7000-8000-000000000000", "A" * 300):
        for reply in (
            await admin.get(f"{USERS}/{user_id}"),
            await admin.patch(f"{USERS}/{user_id}", json={"role": "ADMIN"}),
            await admin.delete(f"{USERS}/{user_id}"),
            await admin.post(f"{USERS}/{user_id}/password", json={"password": PASSWORD}),
        ):
            assert reply.status_code == 404, user_id


async def test_a_user_is_changed_and_the_log_says_from_what(admin: httpx.AsyncClient, host: Host) -> None:
    user = await make_user(host, "ada")
    reply = await admin.patch(f"{USERS}/{user.id}", json={"name": "Ada L.", "role": "OPERATOR"})
    assert (reply.status_code, reply.json()["name"], reply.json()["role"]) == (200, "Ada L.", "OPERATOR")
    assert reply.json()["updated_at"] > user.updated_at
    payload = json.loads((await audit_rows(host, "update_user"))[-1]["payload"])
    assert payload == {
        "user_id": user.id,
        "name": "Ada L.",
        "role": "OPERATOR",
        "was": {"name": "ada", "role": "VIEWER"},
    }


async def test_a_change_that_changes_nothing_is_not_recorded(admin: httpx.AsyncClient, host: Host) -> None:
    user = await make_user(host, "ada")
    for body in ({}, {"role": "VIEWER", "disabled": False, "name": "ada"}):
        assert (await admin.patch(f"{USERS}/{user.id}", json=body)).status_code == 200
    assert await audit_rows(host, "update_user") == []


async def test_a_user_may_change_the_case_of_their_name_but_not_take_anothers(
    admin: httpx.AsyncClient, host: Host
) -> None:
    user = await make_user(host, "ada")
    await make_user(host, "bob")
    assert (await admin.patch(f"{USERS}/{user.id}", json={"name": "ADA"})).json()["name"] == "ADA"
    reply = await admin.patch(f"{USERS}/{user.id}", json={"name": "BOB"})
    assert (reply.status_code, reply.json()["code"]) == (409, "user_exists")


async def test_disabling_ends_sessions_and_stops_tokens_at_once_everywhere(
    admin: httpx.AsyncClient, host: Host, second_host: Host, browser: Browser
) -> None:
    user = await make_user(host, "ada", password=PASSWORD)
    program = await browser(token=await token_of(host, user))
    page = await browser()
    await log_in(page, "ada")
    assert (await program.get("/api/v1/me")).status_code == (await page.get("/api/v1/me")).status_code == 200
    await users.set_disabled(second_host, user.id, True, requested_by=SYSTEM)
    assert (await program.get("/api/v1/me")).status_code == (await page.get("/api/v1/me")).status_code == 401
    await users.set_disabled(second_host, user.id, False, requested_by=SYSTEM)
    assert (await program.get("/api/v1/me")).status_code == 200
    assert (await page.get("/api/v1/me")).status_code == 401


async def test_a_new_role_counts_at_once(host: Host, second_host: Host, browser: Browser) -> None:
    user = await make_user(host, "ada")
    program = await browser(token=await token_of(host, user))
    assert (await program.get(USERS)).status_code == 403
    await users.set_role(second_host, user.id, Role.OPERATOR, requested_by=SYSTEM)
    assert (await program.get(USERS)).status_code == 200


async def test_deleting_takes_tokens_and_sessions_along(admin: httpx.AsyncClient, host: Host, browser: Browser) -> None:
    user = await make_user(host, "ada", password=PASSWORD)
    program = await browser(token=await token_of(host, user))
    page = await browser()
    await log_in(page, "ada")
    assert (await admin.delete(f"{USERS}/{user.id}")).status_code == 204
    assert (await program.get("/api/v1/me")).status_code == (await page.get("/api/v1/me")).status_code == 401
    assert (await admin.get(f"{USERS}/{user.id}")).status_code == 404
    assert (await admin.post(USERS, json={"name": "ada", "role": "VIEWER"})).status_code == 201
    for table in (tokens_table, sessions_table):
        assert await host.db.fetch_all(sa.select(table).where(table.c.user_id == user.id)) == []


async def test_the_last_enabled_admin_stays(admin: httpx.AsyncClient, host: Host) -> None:
    (last,) = (await admin.get(USERS, params={"name": "admin"})).json()["users"]
    disabled = await make_user(host, "disabled", role=Role.ADMIN)
    await users.set_disabled(host, disabled.id, True, requested_by=SYSTEM)
    for reply in (
        await admin.patch(f"{USERS}/{last['id']}", json={"role": "OPERATOR"}),
        await admin.patch(f"{USERS}/{last['id']}", json={"disabled": True}),
        await admin.patch(f"{USERS}/{last['id']}", json={"name": "x", "role": "VIEWER"}),
        await admin.delete(f"{USERS}/{last['id']}"),
    ):
        assert (reply.status_code, reply.json()["code"]) == (409, "last_admin")
    await users.delete_user(host, disabled.id, requested_by=SYSTEM)
    await make_user(host, "second", role=Role.ADMIN)
    assert (await admin.patch(f"{USERS}/{last['id']}", json={"role": "OPERATOR"})).status_code == 200


async def test_two_admins_at_once_cannot_remove_each_other(host: Host, second_host: Host) -> None:
    one, two = [await make_user(host, name, role=Role.ADMIN) for name in ("one", "two")]
    for _ in range(10):
        outcomes = await asyncio.gather(
            users.set_role(host, one.id, Role.VIEWER, requested_by=SYSTEM),
            users.set_role(second_host, two.id, Role.VIEWER, requested_by=SYSTEM),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Problem) for outcome in outcomes) == 1
        for user in (one, two):
            await users.set_role(host, user.id, Role.ADMIN, requested_by=SYSTEM)


async def test_a_set_password_ends_all_sessions(admin: httpx.AsyncClient, host: Host, browser: Browser) -> None:
    user = await make_user(host, "ada", password=PASSWORD)
    pages = [await browser(), await browser()]
    for page in pages:
        await log_in(page, "ada")
    reply = await admin.post(f"{USERS}/{user.id}/password", json={"password": "another passphrase"})
    assert reply.status_code == 204
    assert [(await page.get("/api/v1/me")).status_code for page in pages] == [401, 401]
    page = await browser()
    old = await page.post("/api/v1/login", json={"name": "ada", "password": PASSWORD})
    assert old.status_code == 401
    await log_in(page, "ada", "another passphrase")
    assert "another passphrase" not in await everything_stored(host)


async def test_the_cap_refuses_and_nothing_is_made(admin: httpx.AsyncClient, host: Host, policies: Policies) -> None:
    policies.max_users = 2
    assert (await admin.post(USERS, json={"name": "ada", "role": "VIEWER"})).status_code == 201
    reply = await admin.post(USERS, json={"name": "bob", "role": "VIEWER"})
    body = reply.json()
    assert (reply.status_code, body["code"]) == (403, "license_cap_reached")
    assert (body["error"], body["limit"], body["current"], body["cap"]) == ("license cap reached", "max_users", 2, 2)
    assert (await admin.get(USERS, params={"name": "bob"})).json()["users"] == []
    assert len(await audit_rows(host, "create_user")) == 2


async def test_many_at_once_never_pass_the_cap(host: Host, second_host: Host, policies: Policies) -> None:
    policies.max_users = 5
    other = second_host.registry.get("policies")
    assert other is not None and isinstance(other.plugin, Policies)
    other.plugin.max_users = 5
    await asyncio.gather(
        *(make_user((host, second_host)[number % 2], f"user {number}") for number in range(20)),
        return_exceptions=True,
    )
    assert await host.db.fetch_val(sa.select(sa.func.count()).select_from(users_table)) == 5


async def test_of_many_with_one_name_one_is_made(host: Host, second_host: Host) -> None:
    made = await asyncio.gather(
        *(make_user((host, second_host)[number % 2], "Ada" if number % 3 else "ADA") for number in range(12)),
        return_exceptions=True,
    )
    refused = [one for one in made if isinstance(one, BaseException)]
    assert len(refused) == 11
    assert {one.code for one in refused if isinstance(one, Problem)} == {"user_exists"}


async def test_an_oidc_subject_belongs_to_one_user(host: Host) -> None:
    subject = OidcSubject("https://idp.test", "42")
    made = await make_user(host, "ada", oidc=subject)
    assert made.oidc == subject and not made.has_password
    with pytest.raises(Problem) as refused:
        await make_user(host, "bob", oidc=subject)
    assert refused.value.code == "oidc_subject_taken"
    await make_user(host, "bob", oidc=OidcSubject("https://other.test", "42"))
    async with host.db.transaction() as tx:
        assert await users.find_by_oidc(tx, subject) == made


async def test_what_fails_after_the_insert_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("no audit row")

    monkeypatch.setattr(host.audit, "record", broken)
    with pytest.raises(RuntimeError):
        await make_user(host, "ada")
    assert await host.db.fetch_all(sa.select(users_table)) == []
