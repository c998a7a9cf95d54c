"""Tokens of agents, for the plugin that registers them, and ending all of an agent's or an environment's."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.api import Identity, Role, add_agent_token, new_id, revoke_tokens, valid_tokens
from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.identity.models import SYSTEM
from clavitor_host.identity.tables import tokens as tokens_table
from clavitor_host.identity.tokens import create_token
from tests.identity.conftest import Browser, audit_rows, make_user, token_of

OPERATOR = Identity("user", "o", Role.OPERATOR, user_id="o")
REGISTRAR = Identity("agent", "agent:setup", environment_id="prod", scope="read")
AGENT = Identity("agent", "agent:a1", environment_id="prod", agent_id="a1")


async def add(host: Host, by: Identity, **about: Any) -> str:
    wanted = {"agent_id": "a1", "environment_id": "prod", "name": "billing", **about}
    async with host.db.transaction() as tx:
        token, value = await add_agent_token(host, tx, **wanted, requested_by=by)
    assert (token.kind, token.agent_id, token.created_by) == ("agent", wanted["agent_id"], by.actor)
    return value


async def revoke(host: Host, **which: str) -> int:
    async with host.db.transaction() as tx:
        return await revoke_tokens(host, tx, **which, requested_by=OPERATOR)


async def names(host: Host) -> set[str]:
    return {row["name"] for row in await host.db.fetch_all(sa.select(tokens_table.c.name))}


@pytest.mark.parametrize("by", [SYSTEM, OPERATOR, REGISTRAR, AGENT], ids=lambda by: by.actor)
async def test_whoever_may_register_agents_makes_their_tokens(host: Host, browser: Browser, by: Identity) -> None:
    program = await browser(token=await add(host, by))
    assert (await program.get("/api/entries")).status_code == 200
    assert (await program.put("/api/entries/x", json={"encrypted_data": "QUJD"})).status_code == 403
    (row,) = await audit_rows(host, "create_token")
    assert (row["actor"], row["title"]) == (by.actor, "created agent token billing")
    told = json.loads(row["payload"])
    assert (told["agent_id"], told["environment_id"], told["scope"]) == ("a1", "prod", "read")


async def test_a_token_with_scope_write_writes_in_its_environment(host: Host, browser: Browser) -> None:
    program = await browser(token=await add(host, OPERATOR, scope="write"))
    made = await program.put("/api/entries/x", json={"encrypted_data": "QUJD"})
    assert made.json()["environment_id"] == "prod"


@pytest.mark.parametrize(
    ("by", "about"),
    [
        (Identity("user", "v", Role.VIEWER, user_id="v"), {}),
        (Identity("user", "nobody", None, user_id="n"), {}),
        (Identity("metrics", "metrics:m"), {}),
        (Identity("peer", "peer:p"), {}),
        (Identity("agent", "agent:stray"), {}),
        (AGENT, {"agent_id": "a2"}),
        (REGISTRAR, {"environment_id": "test"}),
        (REGISTRAR, {"scope": "write"}),
        (OPERATOR._replace(environment_id="test"), {}),
    ],
)
async def test_nobody_gives_away_more_than_they_have(host: Host, by: Identity, about: dict[str, Any]) -> None:
    with pytest.raises(Problem) as refused:
        await add(host, by, **about)
    assert refused.value.status == 403
    assert await names(host) == set()


async def test_an_operator_still_makes_no_agent_token_over_http(host: Host, client_for: Any, browser: Browser) -> None:
    operator: httpx.AsyncClient = await client_for("OPERATOR")
    body = {"name": "x", "kind": "agent", "agent_id": "a1", "environment_id": "prod"}
    assert (await operator.post("/api/v1/admin/tokens", json=body)).status_code == 403
    agent = await browser(token=await add(host, OPERATOR))
    assert (await agent.post("/api/v1/admin/tokens", json=body)).status_code == 403


async def test_all_tokens_of_an_agent_end_at_once(host: Host, browser: Browser) -> None:
    program = await browser(token=await add(host, OPERATOR, name="first"))
    await add(host, OPERATOR, name="second")
    await add(host, OPERATOR, name="other", agent_id="a2")
    assert (await program.get("/api/entries")).status_code == 200
    assert await revoke(host, agent_id="a1") == 2
    assert (await program.get("/api/entries")).status_code == 401
    assert await names(host) == {"other"}
    (row,) = await audit_rows(host, "revoke_tokens")
    assert (row["category"], row["actor"], row["title"]) == ("IDENTITY", "o", "revoked 2 tokens of agent a1")
    assert json.loads(row["payload"]) == {"agent_id": "a1", "tokens": 2}


async def test_all_tokens_of_an_environment_end_whoever_has_them(host: Host) -> None:
    user = await make_user(host, "ada")
    await token_of(host, user, environment_id="prod")
    await add(host, OPERATOR, name="agent")
    await create_token(host, name="free", user_id=user.id, requested_by=SYSTEM)
    await add(host, OPERATOR, name="elsewhere", environment_id="test")
    assert await revoke(host, environment_id="prod") == 2
    assert await names(host) == {"free", "elsewhere"}
    (row,) = await audit_rows(host, "revoke_tokens")
    assert json.loads(row["payload"]) == {"environment_id": "prod", "tokens": 2}


async def test_where_there_is_nothing_to_revoke_nothing_is_audited(host: Host) -> None:
    assert await revoke(host, agent_id="a1") == 0
    assert await revoke(host, environment_id="prod") == 0
    assert await audit_rows(host, "revoke_tokens") == []


@pytest.mark.parametrize("which", [{}, {"agent_id": "a1", "environment_id": "prod"}])
async def test_what_to_revoke_must_be_said(host: Host, which: dict[str, str]) -> None:
    await add(host, OPERATOR)
    with pytest.raises(ValueError, match="give one of"):
        await revoke(host, **which)
    assert await names(host) == {"billing"}


async def test_new_ids_are_distinct_and_sort_by_time(host: Host, clock: Any) -> None:
    ids = []
    for _ in range(5):
        ids.append(new_id(host))
        clock.ahead += 1
    assert sorted(set(ids)) == ids


async def test_which_tokens_are_still_good_is_told_of_many_at_once(host: Host) -> None:
    soon = host.clock.now_us() + 60_000_000
    values = [await add(host, SYSTEM, agent_id=name, name=name) for name in ("a1", "a2")]
    values.append(await add(host, SYSTEM, agent_id="a3", name="a3", expires_at=soon))
    ids = {row["id"]: row["agent_id"] for row in await host.db.fetch_all(sa.select(tokens_table))}
    assert len(values) == len(ids) == 3
    assert await valid_tokens(host, ids) == set(ids)
    await revoke(host, agent_id="a1")
    past = sa.update(tokens_table).where(tokens_table.c.agent_id == "a3").values(expires_at=1)
    await host.db.execute(past)
    assert {ids[id] for id in await valid_tokens(host, [*ids, "unknown"])} == {"a2"}
    assert await valid_tokens(host, []) == set()
