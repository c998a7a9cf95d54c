"""`/admin/tokens`: made once, shown once, revoked at once; each within what the visitor may."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.tokens import create_token, list_tokens
from clavitor_host.identity.users import create_user, get_user_by_name
from clavitor_host.testing import Harness
from tests.web.visitor import Visitor

LogIn = Callable[..., Awaitable[Visitor]]
SECRET = re.compile(r"clv_(?:user|agent|metrics)_\w{43}")
DAY = 86_400_000_000


def secret_of(visitor: Visitor) -> str:
    found = SECRET.search(visitor.response.text)
    assert found is not None
    return found[0]


async def test_a_token_is_shown_once_and_works_until_it_is_revoked(
    harness: Harness, ada: Visitor, stranger: Visitor
) -> None:
    await ada.open("/admin/tokens/new")
    page = await ada.submit("/admin/tokens/new", name="backup job", scope="write", days="7")
    secret = secret_of(ada)
    assert "Copy backup job now" in page.text
    bearer = {"authorization": f"Bearer {secret}"}
    assert (await stranger.client.get("/api/entries", headers=bearer)).status_code == 200
    (token,), _ = await list_tokens(harness.host)
    assert token.scope == "write"
    assert token.expires_at is not None
    assert abs(token.expires_at - token.created_at - 7 * DAY) < 60_000_000

    page = await ada.open("/admin/tokens")
    assert "backup job" in page.text
    assert secret not in ada.response.text
    (revoke,) = [action for action in page.forms if action.endswith("/revoke")]
    page = await ada.submit(revoke)
    assert ada.at == "/admin/tokens?done=token-revoked"
    assert "No tokens yet" in page.text
    assert (await stranger.client.get("/api/entries", headers=bearer)).status_code == 401
    assert (await ada.client.post(revoke, data=ada.page.forms["/logout"])).status_code == 404


async def test_loading_the_answer_again_makes_no_second_token(harness: Harness, ada: Visitor) -> None:
    page = await ada.open("/admin/tokens/new")
    fields = {**page.forms["/admin/tokens/new"], "name": "backup job", "days": "7"}
    first = await ada.client.post("/admin/tokens/new", data=fields)
    again = await ada.client.post("/admin/tokens/new", data=fields)
    assert SECRET.search(first.text)
    assert (again.status_code, again.headers["location"]) == (303, "/admin/tokens?done=token-made")
    assert len((await list_tokens(harness.host))[0]) == 1


async def test_an_admin_makes_tokens_of_every_kind(harness: Harness, ada: Visitor, log_in: LogIn) -> None:
    await log_in("victor", "VIEWER")
    for kind, fields, told in (
        ("user", {"owner": "victor", "days": ""}, ("user", "read", None, True)),
        (
            "agent",
            {"environment_id": "shop", "agent_id": "shop-1", "scope": "write"},
            ("agent", "write", "shop", False),
        ),
        ("metrics", {}, ("metrics", "read", None, False)),
    ):
        await ada.open(f"/admin/tokens/new?kind={kind}")
        await ada.submit("/admin/tokens/new", name=f"for {kind}", **fields)
        assert secret_of(ada).startswith(f"clv_{kind}_")
        token = (await list_tokens(harness.host))[0][0]
        assert (token.kind, token.scope, token.environment_id, token.expires_at is None) == told
    victor = await get_user_by_name(harness.host, "victor")
    page = await ada.open(f"/admin/tokens?user={victor.id}")
    assert page.title.startswith("Tokens")
    assert "Tokens of victor" in page.text
    assert "for user" in page.text
    assert "for agent" not in page.text


async def test_making_one_says_in_place_what_is_wrong(harness: Harness, ada: Visitor) -> None:
    await ada.open("/admin/tokens/new?kind=agent")
    page = await ada.submit("/admin/tokens/new", name="x")
    assert ada.response.status_code == 400
    assert "Environment: expected" in page.text
    assert page.forms["/admin/tokens/new"]["kind"] == "agent"
    for fields, said in (
        ({"kind": "user", "name": ""}, "Name: expected"),
        ({"kind": "user", "name": "x", "owner": "nobody"}, "Owner: expected the name of a user"),
        ({"kind": "user", "name": "x", "days": "0"}, "Expires: expected one of the choices"),
        ({"kind": "user", "name": "x", "scope": "all"}, "Scope: expected read or write"),
        ({"kind": "root", "name": "x"}, "Kind: expected user, agent or metrics"),
    ):
        answer = await ada.client.post("/admin/tokens/new", data=page.forms["/admin/tokens/new"] | fields)
        assert answer.status_code == 400, fields
        assert said in answer.text
    assert await list_tokens(harness.host) == ([], False)


async def test_others_make_tokens_for_themselves_alone(harness: Harness, log_in: LogIn) -> None:
    await create_user(harness.host, name="bob", role=Role.OPERATOR, requested_by=SYSTEM)
    for name, role in (("victor", "VIEWER"), ("otto", "OPERATOR")):
        visitor = await log_in(name, role)
        page = await visitor.open("/admin/tokens/new?kind=metrics")
        form = page.forms["/admin/tokens/new"]
        assert form["kind"] == "user"
        assert "owner" not in form
        await visitor.submit("/admin/tokens/new", name=f"of {name}")
        assert secret_of(visitor)
        for fields in ({"owner": "bob"}, {"kind": "metrics"}, {"kind": "agent", "environment_id": "shop"}):
            answer = await visitor.client.post("/admin/tokens/new", data=form | {"name": "x"} | fields)
            assert answer.status_code in (400, 403)
            assert not SECRET.search(answer.text)
    found, _ = await list_tokens(harness.host)
    assert sorted(token.name for token in found) == ["of otto", "of victor"]


async def test_each_sees_and_revokes_what_they_may(harness: Harness, ada: Visitor, log_in: LogIn) -> None:
    victor, otto = await log_in("victor", "VIEWER"), await log_in("otto", "OPERATOR")
    ids = {}
    for name in ("ada", "victor", "otto"):
        owner = await get_user_by_name(harness.host, name)
        token, _ = await create_token(harness.host, name=f"of {name}", user_id=owner.id, requested_by=SYSTEM)
        ids[name] = token.id, owner.id
    for visitor, seen, revocable in (
        (ada, {"ada", "victor", "otto"}, {"ada", "victor", "otto"}),
        (otto, {"ada", "victor", "otto"}, {"otto"}),
        (victor, {"victor"}, {"victor"}),
    ):
        page = await visitor.open("/admin/tokens")
        assert {name for name in ids if f"of {name}" in page.text} == seen
        assert {name for name in ids if f"/admin/tokens/{ids[name][0]}/revoke" in page.forms} == revocable
    await victor.open(f"/admin/tokens?user={ids['ada'][1]}")
    assert victor.response.status_code == 403
    for visitor in (victor, otto):
        data = (await visitor.open("/admin/tokens")).forms["/logout"]
        answer = await visitor.client.post(f"/admin/tokens/{ids['ada'][0]}/revoke", data=data)
        assert answer.status_code == 403
    assert len((await list_tokens(harness.host))[0]) == 3


async def test_expired_tokens_say_so_and_many_come_in_pages(harness: Harness, ada: Visitor) -> None:
    owner = await get_user_by_name(harness.host, "ada")
    for number in range(52):
        await create_token(harness.host, name=f"token-{number:02}", user_id=owner.id, requested_by=SYSTEM)
    page = await ada.open("/admin/tokens")
    assert "token-51" in page.text
    assert "token-01" not in page.text
    page = await ada.open(next(link for link in page.links if "after=" in link))
    assert "token-01" in page.text
    assert "token-02" not in page.text
    await harness.host.db.execute("update tokens set expires_at = 1 where name = 'token-01'")
    page = await ada.open(ada.at)
    assert "expired 1970-01-01 00:00 UTC" in page.text
