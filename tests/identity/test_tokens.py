"""`/api/v1/admin/tokens`: made, shown once, listed, narrowed, revoked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.identity import tokens
from clavitor_host.identity.models import SYSTEM, Identity, Role
from clavitor_host.identity.tables import tokens as tokens_table
from tests.identity.conftest import Browser, ShiftedClock, audit_rows, everything_stored, make_user, token_of

TOKENS = "/api/v1/admin/tokens"
HOUR = 3_600_000_000
Clients = Callable[..., Awaitable[httpx.AsyncClient]]


async def test_a_token_is_shown_once_and_only_its_hash_is_kept(admin: httpx.AsyncClient, host: Host) -> None:
    reply = await admin.post(TOKENS, json={"name": "laptop"})
    assert reply.status_code == 201
    body = reply.json()
    value = body.pop("token")
    assert re.fullmatch(r"clv_user_[0-9A-Za-z]{43}", value)
    assert (body["kind"], body["scope"], body["environment_id"], body["expires_at"]) == ("user", "write", None, None)
    assert (await admin.get(reply.headers["Location"])).json() == body
    assert value not in await everything_stored(host)
    row = await host.db.fetch_one(sa.select(tokens_table).where(tokens_table.c.id == body["id"]))
    assert row is not None and row["hash"] == hashlib.sha256(value.encode()).hexdigest()


async def test_tokens_differ(host: Host) -> None:
    user = await make_user(host, "ada")
    assert len({await token_of(host, user) for _ in range(20)}) == 20


async def test_making_and_revoking_is_audited(admin: httpx.AsyncClient, host: Host) -> None:
    made = (await admin.post(TOKENS, json={"name": "metrics", "kind": "metrics"})).json()
    assert (await admin.delete(f"{TOKENS}/{made['id']}")).status_code == 204
    rows = [(await audit_rows(host, action))[-1] for action in ("create_token", "revoke_token")]
    assert [(row["category"], row["actor"], row["title"]) for row in rows] == [
        ("IDENTITY", "admin", "created metrics token metrics"),
        ("IDENTITY", "admin", "revoked metrics token metrics"),
    ]
    assert {json.loads(row["payload"])["token_id"] for row in rows} == {made["id"]}


async def test_revoking_works_at_once_in_every_process(
    admin: httpx.AsyncClient, host: Host, second_host: Host, browser: Browser
) -> None:
    user = await make_user(host, "ada")
    token, value = await tokens.create_token(host, name="t", user_id=user.id, requested_by=SYSTEM)
    program = await browser(token=value)
    assert (await program.get("/api/v1/me")).status_code == 200
    await tokens.revoke_token(second_host, token.id, requested_by=SYSTEM)
    assert (await program.get("/api/v1/me")).status_code == 401
    assert (await admin.delete(f"{TOKENS}/{token.id}")).status_code == 404


@pytest.mark.parametrize("role", ["VIEWER", "OPERATOR"])
async def test_everybody_makes_their_own_tokens_and_nobody_elses(client_for: Clients, host: Host, role: str) -> None:
    other = await make_user(host, "other")
    client = await client_for(role)
    mine = await client.post(TOKENS, json={"name": "mine", "scope": "read"})
    assert mine.status_code == 201
    me = (await client.get("/api/v1/me")).json()["user"]["id"]
    assert mine.json()["user_id"] == me
    for body in (
        {"name": "x", "user_id": other.id},
        {"name": "x", "kind": "metrics"},
        {"name": "x", "kind": "agent", "environment_id": "prod"},
    ):
        reply = await client.post(TOKENS, json=body)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    _, foreign = await tokens.create_token(host, name="t", user_id=other.id, requested_by=SYSTEM)
    (of_other,), _ = await tokens.list_tokens(host, user_id=other.id)
    assert (await client.delete(f"{TOKENS}/{of_other.id}")).status_code == 403
    assert (await client.delete(f"{TOKENS}/{mine.json()['id']}")).status_code == 204
    assert (await client.get("/api/v1/me", headers={"Authorization": f"Bearer {foreign}"})).status_code == 200


async def test_a_viewer_sees_their_own_an_operator_all(client_for: Clients, host: Host) -> None:
    other = await make_user(host, "other")
    await token_of(host, other)
    (foreign,), _ = await tokens.list_tokens(host, user_id=other.id)
    viewer, operator = await client_for("VIEWER"), await client_for("OPERATOR")
    me = (await viewer.get("/api/v1/me")).json()["user"]["id"]
    assert {token["user_id"] for token in (await viewer.get(TOKENS)).json()["tokens"]} == {me}
    assert (await viewer.get(TOKENS, params={"user_id": other.id})).status_code == 403
    assert (await viewer.get(f"{TOKENS}/{foreign.id}")).status_code == 403
    assert other.id in {token["user_id"] for token in (await operator.get(TOKENS)).json()["tokens"]}
    assert (await operator.get(f"{TOKENS}/{foreign.id}")).json()["id"] == foreign.id
    only = (await operator.get(TOKENS, params={"user_id": other.id})).json()["tokens"]
    assert [token["id"] for token in only] == [foreign.id]


async def test_an_admin_makes_tokens_for_others(admin: httpx.AsyncClient, host: Host, browser: Browser) -> None:
    user = await make_user(host, "ada")
    reply = await admin.post(TOKENS, json={"name": "for ada", "user_id": user.id})
    program = await browser(token=reply.json()["token"])
    assert (await program.get("/api/v1/me")).json()["user"]["name"] == "ada"
    assert (await admin.get(reply.headers["Location"])).json()["created_by"] == "admin"
    missing = {"name": "x", "user_id": "00000000-0000-7000-8000-000000000000"}
    for body in (missing, {"name": "x", "user_id": "nobody"}):
        assert (await admin.post(TOKENS, json=body)).status_code == 404
    assert (await admin.post(TOKENS, json={"name": "x", "user_id": "a\u0000"})).json()["field"] == "user_id"


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": "x", "kind": "root"}, "kind"),
    ({"name": "x", "scope": "admin"}, "scope"),
    ({"name": "x", "kind": "agent"}, "environment_id"),
    ({"name": "x", "kind": "metrics", "environment_id": "prod"}, "environment_id"),
    ({"name": "x", "agent_id": "7"}, "agent_id"),
    ({"name": "x", "environment_id": ""}, "environment_id"),
    ({"name": "x", "environment_id": "a\u0000"}, "environment_id"),
    ({"name": "x", "environment_id": "e" * 129}, "environment_id"),
    ({"name": "x", "expires_in": 0}, "expires_in"),
    ({"name": "x", "expires_in": -1}, "expires_in"),
    ({"name": "x", "expires_in": 2**60}, "expires_in"),
    ({"name": "x", "expires_in": "90d"}, "expires_in"),
    ({"name": "x", "expires_in": True}, "expires_in"),
    ({"name": "x", "token": "clv_user_mine"}, "token"),
]


async def test_a_bad_field_is_named(admin: httpx.AsyncClient) -> None:
    for body, field in BAD_FIELDS:
        reply = await admin.post(TOKENS, json=body)
        assert (reply.status_code, reply.json()["field"]) == (400, field), body


async def test_a_metrics_token_has_no_owner(admin: httpx.AsyncClient, host: Host) -> None:
    user = await make_user(host, "ada")
    reply = await admin.post(TOKENS, json={"name": "x", "kind": "metrics", "user_id": user.id})
    assert (reply.status_code, reply.json()["field"]) == (400, "user_id")


async def test_a_read_token_cannot_make_any(client_for: Clients) -> None:
    reader = await client_for("ADMIN", scope="read")
    for scope in ("read", "write"):
        assert (await reader.post(TOKENS, json={"name": "x", "scope": scope})).status_code == 403


async def test_a_token_tied_to_an_environment_cannot_make_any(client_for: Clients) -> None:
    tied = await client_for("ADMIN", environment_id="prod")
    assert (await tied.post(TOKENS, json={"name": "x"})).status_code == 403
    assert (await tied.post(TOKENS, json={"name": "x", "environment_id": "prod"})).status_code == 403


@pytest.mark.parametrize(
    "about",
    [
        {"requested_by": Identity("user", "u", Role.ADMIN, "u", scope="read"), "scope": "write"},
        {"requested_by": Identity("user", "u", Role.ADMIN, "u", environment_id="prod")},
        {"requested_by": Identity("user", "u", Role.ADMIN, "u", environment_id="prod"), "environment_id": "test"},
        {"requested_by": Identity("user", "u", Role.OPERATOR, "somebody else")},
    ],
)
async def test_the_service_itself_gives_no_more_than_there_is(host: Host, about: dict[str, Any]) -> None:
    user = await make_user(host, "ada")
    with pytest.raises(Problem) as refused:
        await tokens.create_token(host, name="x", user_id=user.id, **about)
    assert refused.value.status == 403


async def test_pages_show_every_token_once_newest_first(admin: httpx.AsyncClient, host: Host) -> None:
    user = await make_user(host, "ada")
    for _ in range(7):
        await token_of(host, user)
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3, "user_id": user.id}
    while True:
        page = (await admin.get(TOKENS, params=query)).json()
        seen += [token["id"] for token in page["tokens"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, reverse=True)


async def test_an_expired_token_stops_at_that_moment(host: Host, browser: Browser, clock: ShiftedClock) -> None:
    user = await make_user(host, "ada")
    program = await browser(token=await token_of(host, user, expires_at=clock.now_us() + HOUR))
    clock.ahead = 3590
    assert (await program.get("/api/v1/me")).status_code == 200
    clock.ahead = 3601
    assert (await program.get("/api/v1/me")).status_code == 401


async def test_a_user_has_no_more_than_so_many_tokens(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS_PER_USER", 2)
    user = await make_user(host, "ada")
    for _ in range(2):
        await token_of(host, user)
    with pytest.raises(Problem) as refused:
        await token_of(host, user)
    assert (refused.value.status, refused.value.code) == (409, "too_many_tokens")


async def test_a_token_ends_after_its_lifetime(admin: httpx.AsyncClient, host: Host) -> None:
    before = host.clock.now_us()
    made = await admin.post("/api/v1/admin/tokens", json={"name": "brief", "expires_in": 90})
    after = host.clock.now_us()
    assert made.status_code == 201
    assert before + 90_000_000 <= made.json()["expires_at"] <= after + 90_000_000
