"""`token_grants`: what a server tells another that is to honour its tokens; and the signal that it changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256

import pytest

from clavitor_host.api import TokenGrant, add_agent_token, revoke_tokens, token_grants
from clavitor_host.host import Host
from clavitor_host.identity import tokens, users
from clavitor_host.identity.models import SYSTEM, Role
from tests.identity.conftest import Browser, ShiftedClock, make_user, token_of

PASSWORD = "correct horse battery"


async def grants(host: Host) -> list[TokenGrant]:
    async with host.db.transaction() as tx:
        return await token_grants(tx, now=host.clock.now_us())


def digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


@pytest.fixture
async def heard(host: Host) -> AsyncIterator[list[str | None]]:
    """What a subscriber of `identity.changed` hears."""
    told: list[str | None] = []
    end = host.signals.subscribe("identity.changed", told.append)
    yield told
    end()


async def agent_token(host: Host, agent_id: str | None, environment_id: str, name: str = "nodes") -> str:
    _, value = await tokens.create_token(
        host, name=name, kind="agent", agent_id=agent_id, environment_id=environment_id, requested_by=SYSTEM
    )
    return value


async def test_every_good_token_of_users_and_agents_is_told_by_its_hash(host: Host, clock: ShiftedClock) -> None:
    assert await grants(host) == []
    ada = await make_user(host, "ada", role=Role.ADMIN)
    bob = await make_user(host, "bob")
    soon = clock.now_us() + 60_000_000
    whole = await token_of(host, ada)
    narrow = await token_of(host, bob, scope="read", environment_id="blue", expires_at=soon)
    registers = await agent_token(host, None, "blue")
    works = await agent_token(host, "agent-1", "red")
    await tokens.create_token(host, name="scrape", kind="metrics", requested_by=SYSTEM)
    expected = [
        TokenGrant(digest(whole), "user", "ada", Role.ADMIN, "write", None, None, None),
        TokenGrant(digest(narrow), "user", "bob", Role.VIEWER, "read", "blue", None, soon),
        TokenGrant(digest(registers), "agent", "agent:nodes", None, "read", "blue", None, None),
        TokenGrant(digest(works), "agent", "agent:agent-1", None, "read", "red", "agent-1", None),
    ]
    assert await grants(host) == sorted(expected, key=lambda grant: grant.hash)


async def test_the_owner_and_role_are_those_of_audit_rows_and_authorisation(host: Host, browser: Browser) -> None:
    bob = await make_user(host, "bob")
    token = await token_of(host, bob)
    client = await browser(token=token)
    me = (await client.get("/api/v1/me")).json()
    (grant,) = await grants(host)
    assert (grant.owner, grant.role) == (me["actor"], me["role"])


async def test_expired_revoked_and_disabled_ones_are_left_out(host: Host, clock: ShiftedClock) -> None:
    bob = await make_user(host, "bob")
    await make_user(host, "ada", role=Role.ADMIN)
    kept = await token_of(host, bob)
    expiring = await token_of(host, bob, expires_at=clock.now_us() + 1_000_000)
    made, _ = await tokens.create_token(host, name="gone", user_id=bob.id, requested_by=SYSTEM)
    assert len(await grants(host)) == 3
    await tokens.revoke_token(host, made.id, requested_by=SYSTEM)
    assert {grant.hash for grant in await grants(host)} == {digest(kept), digest(expiring)}
    clock.ahead += 2.0
    assert {grant.hash for grant in await grants(host)} == {digest(kept)}
    await users.set_disabled(host, bob.id, True, requested_by=SYSTEM)
    assert await grants(host) == []
    await users.set_disabled(host, bob.id, False, requested_by=SYSTEM)
    await users.set_role(host, bob.id, Role.OPERATOR, requested_by=SYSTEM)
    assert [grant.role for grant in await grants(host)] == [Role.OPERATOR]
    await users.delete_user(host, bob.id, requested_by=SYSTEM)
    assert await grants(host) == []


async def test_every_change_of_users_and_tokens_is_signalled(host: Host, heard: list[str | None]) -> None:
    await make_user(host, "ada", role=Role.ADMIN)
    bob = await make_user(host, "bob")
    made, _ = await tokens.create_token(host, name="one", user_id=bob.id, requested_by=SYSTEM)

    async def register() -> None:
        async with host.db.transaction() as tx:
            await add_agent_token(host, tx, agent_id="agent-1", environment_id="blue", name="one", requested_by=SYSTEM)

    async def end_all() -> None:
        async with host.db.transaction() as tx:
            assert await revoke_tokens(host, tx, environment_id="blue", requested_by=SYSTEM) == 1

    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: make_user(host, "eve"),
        lambda: token_of(host, bob),
        lambda: tokens.revoke_token(host, made.id, requested_by=SYSTEM),
        lambda: users.set_role(host, bob.id, Role.OPERATOR, requested_by=SYSTEM),
        lambda: users.set_disabled(host, bob.id, True, requested_by=SYSTEM),
        lambda: users.update_user(host, bob.id, name="robert", requested_by=SYSTEM),
        lambda: users.delete_user(host, bob.id, requested_by=SYSTEM),
        register,
        end_all,
    ]
    for number, change in enumerate(changes):
        heard.clear()
        await change()
        assert heard == [""], number


async def test_nothing_is_signalled_when_nothing_changed(host: Host, heard: list[str | None], browser: Browser) -> None:
    bob = await make_user(host, "bob", password=PASSWORD)
    client = await browser(token=await token_of(host, bob))
    heard.clear()
    assert (await client.get("/api/v1/me")).status_code == 200
    assert (await client.get("/api/entries")).status_code == 200
    with pytest.raises(Exception, match="exists"):
        await make_user(host, "bob")
    async with host.db.transaction() as tx:
        assert await revoke_tokens(host, tx, environment_id="blue", requested_by=SYSTEM) == 0
    assert heard == []


async def test_another_process_hears_of_it(host: Host, second_host: Host, heard: list[str | None]) -> None:
    client_of_second = await make_user(second_host, "ada", role=Role.ADMIN)
    await token_of(second_host, client_of_second)
    assert len(await grants(host)) == 1
