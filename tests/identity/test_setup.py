"""The one-time link of the first start."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.identity import setup
from clavitor_host.identity.models import Role
from clavitor_host.identity.tables import setup_tokens, users
from tests.identity.conftest import PASSWORD, URL, Browser, Policies, audit_rows, everything_stored, make_user

SETUP = "/api/v1/setup"


async def new_token(host: Host) -> str:
    link = await setup.setup_link(host, URL)
    assert link is not None and link.startswith(f"{URL}/setup?token=")
    return parse_qs(urlsplit(link).query)["token"][0]


def body(token: str, **change: str) -> dict[str, str]:
    return {"token": token, "name": "Root", "password": PASSWORD, **change}


async def test_the_link_makes_the_first_admin_and_logs_them_in(client: httpx.AsyncClient, host: Host) -> None:
    token = await new_token(host)
    assert token not in await everything_stored(host)
    await setup.check_setup_token(host, token)
    reply = await client.post(SETUP, json=body(token))
    assert reply.status_code == 201
    assert (reply.json()["user"]["name"], reply.json()["user"]["role"]) == ("Root", "ADMIN")
    assert (await client.get("/api/v1/me")).json()["role"] == "ADMIN"
    assert (await client.get(reply.headers["Location"])).status_code == 200
    assert [(row["action"], row["actor"]) for row in await audit_rows(host)][-2:] == [
        ("create_user", "setup"),
        ("login", "Root"),
    ]
    assert PASSWORD not in await everything_stored(host)


async def test_the_link_works_once(client: httpx.AsyncClient, host: Host) -> None:
    token, other = await new_token(host), await new_token(host)
    assert (await client.post(SETUP, json=body(token))).status_code == 201
    for again in (token, other, "wrong"):
        reply = await client.post(SETUP, json=body(again, name="second"))
        assert (reply.status_code, reply.json()["code"]) == (409, "already_set_up")
    assert await host.db.fetch_all(sa.select(setup_tokens)) == []
    assert await setup.setup_link(host, URL) is None


@pytest.mark.parametrize("token", ["", "wrong", "A" * 43, "a\u0000b"])
async def test_a_wrong_token_makes_nobody(client: httpx.AsyncClient, host: Host, token: str) -> None:
    await new_token(host)
    reply = await client.post(SETUP, json=body(token))
    assert (reply.status_code, reply.json()["code"]) == (403, "setup_token")
    assert await host.db.fetch_all(sa.select(users)) == []
    with pytest.raises(Problem):
        await setup.check_setup_token(host, token)


async def test_a_user_made_offline_ends_the_setup(client: httpx.AsyncClient, host: Host) -> None:
    token = await new_token(host)
    await make_user(host, "boss", role=Role.ADMIN)
    assert (await client.post(SETUP, json=body(token))).status_code == 409
    await setup.purge(host)
    assert await host.db.fetch_all(sa.select(setup_tokens)) == []


async def test_a_user_who_cannot_administer_does_not_end_it(client: httpx.AsyncClient, host: Host) -> None:
    token = await new_token(host)
    await make_user(host, "viewer", role=Role.VIEWER)
    await setup.purge(host)
    assert await setup.setup_link(host, "http://x") is not None
    assert (await client.post(SETUP, json=body(token))).status_code == 201


async def test_a_link_is_good_for_a_day(client: httpx.AsyncClient, host: Host) -> None:
    token = await new_token(host)
    await host.db.execute(sa.update(setup_tokens).values(created_at=host.clock.now_us() - setup.GOOD_FOR))
    assert (await client.post(SETUP, json=body(token))).status_code == 403


async def test_unspent_links_survive_the_purge(host: Host) -> None:
    token = await new_token(host)
    await setup.purge(host)
    await setup.check_setup_token(host, token)


async def test_of_many_at_once_one_becomes_admin(host: Host, second_host: Host, browser: Browser) -> None:
    token, other = await new_token(host), await new_token(second_host)
    clients = [await browser(address=f"192.0.2.{number}") for number in range(6)]
    replies = await asyncio.gather(
        *(one.post(SETUP, json=body((token, other)[n % 2], name=f"root {n}")) for n, one in enumerate(clients)),
        make_user(second_host, "offline", role=Role.ADMIN),
        return_exceptions=True,
    )
    made = [reply for reply in replies if isinstance(reply, httpx.Response) and reply.status_code == 201]
    rows = await host.db.fetch_all(sa.select(users.c.name).where(users.c.name != "offline"))
    assert len(rows) == len(made) <= 1


@pytest.mark.parametrize(
    ("change", "field"), [({"password": "short"}, "password"), ({"name": " x"}, "name"), ({"name": "system"}, "name")]
)
async def test_a_bad_field_leaves_the_link_good(
    client: httpx.AsyncClient, host: Host, change: dict[str, str], field: str
) -> None:
    token = await new_token(host)
    reply = await client.post(SETUP, json=body(token, **change))
    assert (reply.status_code, reply.json()["field"]) == (400, field)
    assert (await client.post(SETUP, json=body(token))).status_code == 201


async def test_the_cap_counts_for_the_first_user_too(client: httpx.AsyncClient, host: Host, policies: Policies) -> None:
    policies.max_users = 0
    reply = await client.post(SETUP, json=body(await new_token(host)))
    assert reply.json()["code"] == "license_cap_reached"


async def test_another_site_cannot_set_up(client: httpx.AsyncClient, host: Host) -> None:
    token = await new_token(host)
    reply = await client.post(SETUP, json=body(token), headers={"Origin": "https://evil.test"})
    assert reply.status_code == 403


async def test_only_so_many_links_are_good(host: Host) -> None:
    links = [await new_token(host) for _ in range(setup.MAX_LINKS + 3)]
    assert len(await host.db.fetch_all(sa.select(setup_tokens))) == setup.MAX_LINKS
    await setup.check_setup_token(host, links[-1])
    with pytest.raises(Problem):
        await setup.check_setup_token(host, links[0])
