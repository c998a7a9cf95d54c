"""Logging in and out, the session cookie, CSRF, and one's own account."""

from __future__ import annotations

import asyncio
import hashlib
import json

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.host import Host
from clavitor_host.identity import sessions, users
from clavitor_host.identity.models import SYSTEM, Identity, Role
from clavitor_host.identity.tables import sessions as sessions_table
from clavitor_host.identity.tables import users as users_table
from tests.identity.conftest import (
    ADDRESS,
    PASSWORD,
    Browser,
    Policies,
    ShiftedClock,
    audit_rows,
    everything_stored,
    log_in,
    make_user,
    token_of,
)

LOGIN = "/api/v1/login"
ME = "/api/v1/me"
NEW = "another passphrase"


@pytest.fixture
async def ada(host: Host) -> str:
    return (await make_user(host, "Ada", password=PASSWORD)).id


async def test_logging_in_sets_a_host_cookie_and_stores_its_hash(
    client: httpx.AsyncClient, host: Host, ada: str
) -> None:
    reply = await client.post(LOGIN, json={"name": "ada", "password": PASSWORD}, headers={"User-Agent": "Fire\x07fox"})
    assert reply.status_code == 200
    name, _, rest = reply.headers["set-cookie"].partition("=")
    value, *attributes = rest.split("; ")
    assert name == "__Host-clavitor_session"
    assert {*attributes} == {"Path=/", "Secure", "HttpOnly", "SameSite=Strict", "Max-Age=43200"}
    assert len(value) == 43
    row = await host.db.fetch_one(sa.select(sessions_table))
    assert row is not None
    assert row["hash"] == hashlib.sha256(value.encode()).hexdigest()
    assert (row["user_id"], row["source"], row["user_agent"]) == (ada, ADDRESS, "Fire\\x07fox")
    stored = await everything_stored(host)
    assert value not in stored and PASSWORD not in stored and reply.json()["csrf_token"] not in stored
    assert value not in reply.text
    assert reply.json()["user"]["id"] == ada
    assert (await users.get_user(host, ada)).last_login_at is not None


async def test_a_login_is_audited(client: httpx.AsyncClient, host: Host, ada: str) -> None:
    await log_in(client, "ADA")
    row = (await audit_rows(host, "login"))[-1]
    assert (row["category"], row["actor"], row["title"], row["source"]) == ("IDENTITY", "Ada", "Ada logged in", ADDRESS)
    assert json.loads(row["payload"])["method"] == "password"


async def test_unknown_name_wrong_password_and_disabled_user_look_the_same(
    client: httpx.AsyncClient, host: Host, ada: str
) -> None:
    disabled = await make_user(host, "disabled", password=PASSWORD)
    await users.set_disabled(host, disabled.id, True, requested_by=SYSTEM)
    await make_user(host, "tokens only")
    answers = set()
    for name, password in (
        ("ada", "wrong"),
        ("ada", ""),
        ("ada", PASSWORD + "\u0000"),
        ("ada", "x" * 5000),
        ("nobody", PASSWORD),
        ("no\u0000body", PASSWORD),
        ("", PASSWORD),
        ("disabled", PASSWORD),
        ("tokens only", PASSWORD),
        ("tokens only", ""),
    ):
        reply = await client.post(LOGIN, json={"name": name, "password": password})
        assert "set-cookie" not in reply.headers
        answers.add((reply.status_code, reply.content, reply.headers["www-authenticate"]))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 401
    assert await host.db.fetch_all(sa.select(sessions_table)) == []


async def test_an_unknown_name_costs_a_password_check_too(
    client: httpx.AsyncClient, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_host.identity import passwords

    checked: list[str] = []
    verify = passwords._verify

    def counting(password: bytes, phc: str) -> bool:
        checked.append(phc)
        return verify(password, phc)

    monkeypatch.setattr(passwords, "_verify", counting)
    for name in ("ada", "nobody", "no\u0000body"):
        await client.post(LOGIN, json={"name": name, "password": "wrong"})
    assert len(checked) == 3


async def test_a_failed_login_is_audited_without_the_password(client: httpx.AsyncClient, host: Host, ada: str) -> None:
    await client.post(LOGIN, json={"name": "a\nda" + "x" * 200, "password": "hunter2 hunter2"})
    (row,) = await audit_rows(host, "login_failed")
    payload = json.loads(row["payload"])
    assert row["actor"] == "anonymous" and row["source"] == ADDRESS
    assert payload["name"].startswith("a\\ndaxxx") and len(payload["name"]) < 100
    assert "\n" not in row["title"]
    assert "hunter2" not in await everything_stored(host)


async def test_a_malformed_login_is_a_400(client: httpx.AsyncClient) -> None:
    bodies: list[object] = [{}, {"name": "a"}, {"name": "a", "password": 1}, [], "x", None]
    for body in (*bodies, {"name": "a", "password": "b", "x": 1}):
        assert (await client.post(LOGIN, json=body)).status_code == 400


async def test_a_login_gives_a_new_session_and_ends_the_one_before(
    client: httpx.AsyncClient, browser: Browser, host: Host, ada: str
) -> None:
    await log_in(client, "ada")
    first = client.cookies["__Host-clavitor_session"]
    await log_in(client, "ada")
    assert client.cookies["__Host-clavitor_session"] != first
    thief = await browser()
    assert (await thief.get(ME, headers={"Cookie": f"__Host-clavitor_session={first}"})).status_code == 401
    assert len(await sessions.list_sessions(host, ada)) == 1


async def test_a_session_id_that_a_browser_was_given_is_never_taken_over(
    client: httpx.AsyncClient, host: Host, ada: str
) -> None:
    planted = "A" * 43
    reply = await client.post(
        LOGIN,
        json={"name": "ada", "password": PASSWORD},
        headers={"Cookie": f"__Host-clavitor_session={planted}"},
    )
    assert planted not in reply.headers["set-cookie"]
    assert (await client.get(ME, headers={"Cookie": f"__Host-clavitor_session={planted}"})).status_code == 401


async def test_two_session_cookies_are_none(client: httpx.AsyncClient, browser: Browser, ada: str) -> None:
    await log_in(client, "ada")
    value = client.cookies["__Host-clavitor_session"]
    other = await browser()
    one = f"__Host-clavitor_session={value}"
    assert (await other.get(ME, headers={"Cookie": f"a=b; {one}"})).status_code == 200
    assert (await other.get(ME, headers={"Cookie": f"{one}; {one}"})).status_code == 401
    assert (await other.get(ME, headers=[("Cookie", one), ("Cookie", one)])).status_code == 401


async def test_a_session_ends_after_its_lifetime_however_much_it_is_used(
    client: httpx.AsyncClient, clock: ShiftedClock, ada: str
) -> None:
    await log_in(client, "ada")
    for clock.ahead in range(0, 43_000, 5000):
        assert (await client.get(ME)).status_code == 200
    clock.ahead = 43_201
    assert (await client.get(ME)).status_code == 401


async def test_an_idle_session_ends(client: httpx.AsyncClient, clock: ShiftedClock, ada: str) -> None:
    await log_in(client, "ada")
    clock.ahead = 7150
    assert (await client.get(ME)).status_code == 200
    clock.ahead += 7201
    assert (await client.get(ME)).status_code == 401


async def test_logging_out_ends_the_session_on_the_server(
    client: httpx.AsyncClient, browser: Browser, host: Host, ada: str
) -> None:
    await log_in(client, "ada")
    value = client.cookies["__Host-clavitor_session"]
    reply = await client.post("/api/v1/logout")
    assert reply.status_code == 204
    assert "Max-Age=0" in reply.headers["set-cookie"]
    thief = await browser()
    assert (await thief.get(ME, headers={"Cookie": f"__Host-clavitor_session={value}"})).status_code == 401
    assert (await audit_rows(host, "logout"))[-1]["title"] == "Ada logged out"


# --- CSRF ----------------------------------------------------------------------------------------------------


async def test_an_unsafe_request_needs_the_csrf_token(client: httpx.AsyncClient, browser: Browser, ada: str) -> None:
    body = await log_in(client, "ada")
    del client.headers["X-CSRF-Token"]
    stranger = await browser()
    foreign = (await log_in(stranger, "ada"))["csrf_token"]
    for token in (None, "", "x", body["csrf_token"][:-1], foreign, "\xff"):
        headers = [] if token is None else [(b"x-csrf-token", token.encode("latin-1"))]
        reply = await client.delete(f"{ME}/sessions", headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "csrf")
    assert (await client.get(ME)).json()["csrf_token"] == body["csrf_token"]
    assert (await client.delete(f"{ME}/sessions", headers={"X-CSRF-Token": body["csrf_token"]})).status_code == 204


FOREIGN = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.test"},
    {"Origin": "https://vault.test.evil.test"},
    {"Origin": "https://vault.test:8443"},
    {"Origin": "null"},
    {"Origin": "//vault.test"},
    {"Origin": "https://[bad"},
    {"Origin": ""},
)


async def test_another_site_is_refused_even_with_the_token(client: httpx.AsyncClient, ada: str) -> None:
    await log_in(client, "ada")
    for headers in FOREIGN:
        reply = await client.delete(f"{ME}/sessions", headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "csrf"), headers
        assert (await client.get(ME, headers=headers)).status_code == 200
        login = await client.post(LOGIN, json={"name": "ada", "password": PASSWORD}, headers=headers)
        assert (login.status_code, login.json()["code"]) == (403, "csrf"), headers


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://vault.test", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
async def test_our_own_pages_pass(client: httpx.AsyncClient, ada: str, headers: dict[str, str]) -> None:
    await log_in(client, "ada")
    assert (await client.delete(f"{ME}/sessions", headers=headers)).status_code == 204


async def test_a_form_may_carry_the_token(client: httpx.AsyncClient, ada: str) -> None:
    token = (await log_in(client, "ada"))["csrf_token"]
    del client.headers["X-CSRF-Token"]
    assert (await client.post("/api/v1/logout", data={"csrf_token": "wrong"})).status_code == 403
    twice = await client.post("/api/v1/logout", data={"csrf_token": [token, token]})
    assert twice.status_code == 403
    json_body = await client.post("/api/v1/logout", json={"csrf_token": token})
    assert json_body.status_code == 403
    assert (await client.post("/api/v1/logout", data={"csrf_token": token})).status_code == 204


async def test_a_bearer_token_needs_no_csrf_token(host: Host, browser: Browser, ada: str) -> None:
    program = await browser(token=await token_of(host, await users.get_user(host, ada)))
    headers = {"Origin": "https://elsewhere.test", "Sec-Fetch-Site": "cross-site"}
    assert (await program.delete(f"{ME}/sessions", headers=headers)).status_code == 204


# --- one's own account ---------------------------------------------------------------------------------------


async def test_me_says_who_one_is(client: httpx.AsyncClient, ada: str) -> None:
    body = await log_in(client, "ada")
    me = (await client.get(ME)).json()
    assert (me["kind"], me["actor"], me["role"], me["via"]) == ("user", "Ada", "VIEWER", "session")
    assert me["user"]["id"] == ada
    assert me["csrf_token"] == body["csrf_token"]


async def test_a_changed_password_ends_all_sessions_and_gives_the_asking_one_a_new_id(
    client: httpx.AsyncClient, browser: Browser, host: Host, ada: str
) -> None:
    other = await browser()
    await log_in(other, "ada")
    await log_in(client, "ada")
    old = client.cookies["__Host-clavitor_session"]
    reply = await client.patch(ME, json={"current_password": PASSWORD, "new_password": NEW})
    assert reply.status_code == 200
    assert (await other.get(ME)).status_code == 401
    assert (await client.get(ME)).status_code == 200
    assert (await client.get(ME)).json()["csrf_token"] == reply.json()["csrf_token"]
    thief = await browser()
    assert (await thief.get(ME, headers={"Cookie": f"__Host-clavitor_session={old}"})).status_code == 401
    assert (await thief.post(LOGIN, json={"name": "ada", "password": PASSWORD})).status_code == 401
    await log_in(thief, "ada", NEW)
    assert [row["actor"] for row in await audit_rows(host, "set_password")] == ["Ada"]
    stored = await everything_stored(host)
    assert NEW not in stored and PASSWORD not in stored


async def test_changing_the_password_needs_the_current_one(client: httpx.AsyncClient, host: Host, ada: str) -> None:
    await log_in(client, "ada")
    reply = await client.patch(ME, json={"current_password": "wrong", "new_password": NEW})
    assert (reply.status_code, reply.json()["code"]) == (403, "wrong_password")
    assert (await audit_rows(host, "login_failed"))[-1]["actor"] == "Ada"
    short = await client.patch(ME, json={"current_password": PASSWORD, "new_password": "short"})
    assert (short.status_code, short.json()["field"]) == (400, "new_password")
    assert (await client.get(ME)).status_code == 200


async def test_guessing_the_current_password_is_throttled(client: httpx.AsyncClient, ada: str) -> None:
    await log_in(client, "ada")
    seen = []
    for _ in range(12):
        reply = await client.patch(ME, json={"current_password": "wrong", "new_password": NEW})
        seen.append(reply.status_code)
    assert seen == [403] * 10 + [429] * 2


async def test_of_two_changes_at_once_one_wins(host: Host, browser: Browser, ada: str) -> None:
    token = await token_of(host, await users.get_user(host, ada))
    program = await browser(token=token)
    replies = await asyncio.gather(
        *(
            program.patch(ME, json={"current_password": PASSWORD, "new_password": f"new passphrase {number}"})
            for number in range(4)
        )
    )
    assert [reply.status_code for reply in replies].count(200) == 1


async def test_a_read_token_does_not_change_the_password(host: Host, browser: Browser, ada: str) -> None:
    reader = await browser(token=await token_of(host, await users.get_user(host, ada), scope="read"))
    assert (await reader.get(ME)).status_code == 200
    reply = await reader.patch(ME, json={"current_password": PASSWORD, "new_password": NEW})
    assert reply.status_code == 403


async def test_who_has_no_password_cannot_change_it(host: Host, browser: Browser) -> None:
    user = await make_user(host, "tokens only")
    program = await browser(token=await token_of(host, user))
    reply = await program.patch(ME, json={"current_password": "", "new_password": NEW})
    assert (reply.status_code, reply.json()["code"]) == (409, "no_password")


async def test_who_is_no_user_here_has_no_password_to_change(policies: Policies, client: httpx.AsyncClient) -> None:
    policies.who = lambda _: Identity("user", "elsewhere", Role.ADMIN, via="plugin")
    reply = await client.patch(ME, json={"current_password": PASSWORD, "new_password": NEW})
    assert (reply.status_code, reply.json()["code"]) == (403, "no_user")


async def test_own_sessions_are_listed_and_ended(
    client: httpx.AsyncClient, browser: Browser, host: Host, ada: str
) -> None:
    await make_user(host, "bob", password=PASSWORD)
    bob = await browser()
    await log_in(bob, "bob")
    (of_bob,) = (await bob.get(f"{ME}/sessions")).json()["sessions"]
    other = await browser(address="198.51.100.7")
    await log_in(other, "ada")
    await log_in(client, "ada")
    listed = (await client.get(f"{ME}/sessions")).json()["sessions"]
    assert [(one["source"], one["current"]) for one in listed] == [(ADDRESS, True), ("198.51.100.7", False)]
    assert (await client.delete(f"{ME}/sessions/{of_bob['id']}")).status_code == 404
    assert (await client.delete(f"{ME}/sessions/x%00")).status_code == 404
    assert (await client.delete(f"{ME}/sessions/{listed[1]['id']}")).status_code == 204
    assert (await other.get(ME)).status_code == 401
    assert (await bob.get(ME)).status_code == (await client.get(ME)).status_code == 200
    assert (await client.delete(f"{ME}/sessions")).status_code == 204
    assert (await client.get(ME)).status_code == 401


async def test_a_login_renews_a_weaker_hash(client: httpx.AsyncClient, host: Host, ada: str) -> None:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    weak = Argon2id(salt=b"s" * 16, length=32, iterations=1, lanes=1, memory_cost=8192)
    phc = weak.derive_phc_encoded(PASSWORD.encode())
    await host.db.execute(sa.update(users_table).values(password_hash=phc))
    await log_in(client, "ada")
    renewed = await host.db.fetch_val(sa.select(users_table.c.password_hash))
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    await log_in(client, "ada")
    assert await host.db.fetch_val(sa.select(users_table.c.password_hash)) == renewed


async def test_a_password_changed_during_a_login_lets_nobody_in(
    client: httpx.AsyncClient, host: Host, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_host.identity.state import state_of

    hasher = state_of(host).passwords
    verify = hasher.verify

    async def slow(password: str, phc: str | None) -> bool:
        fits = await verify(password, phc)
        await users.set_password(host, ada, NEW, requested_by=SYSTEM)
        return fits

    monkeypatch.setattr(hasher, "verify", slow)
    assert (await client.post(LOGIN, json={"name": "ada", "password": PASSWORD})).status_code == 401
    assert await host.db.fetch_all(sa.select(sessions_table)) == []


async def test_ended_sessions_are_purged(
    client: httpx.AsyncClient, browser: Browser, host: Host, clock: ShiftedClock, ada: str
) -> None:
    await log_in(client, "ada")
    clock.ahead = 7900
    await log_in(await browser(), "ada")
    await sessions.purge(host)
    assert len(await host.db.fetch_all(sa.select(sessions_table))) == 1
