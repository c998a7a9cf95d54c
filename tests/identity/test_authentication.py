"""Who makes a request: every wrong credential gets one and the same 401."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.errors import problem
from clavitor_host.host import Host
from clavitor_host.http import Request
from clavitor_host.identity import tokens
from clavitor_host.identity.authentication import authenticate
from clavitor_host.identity.last_used import flush_last_used
from clavitor_host.identity.models import SYSTEM, Identity, Role
from clavitor_host.identity.tables import sessions as sessions_table
from clavitor_host.identity.tables import tokens as tokens_table
from tests.identity.conftest import PASSWORD, Browser, Policies, ShiftedClock, log_in, make_user, token_of

ME = "/api/v1/me"


def a_request(host: Host, *headers: tuple[bytes, bytes], method: str = "GET", path: str = ME) -> Request:
    async def body() -> bytes:
        return b""

    return Request(
        host=host,
        method=method,
        path=path,
        raw_query=b"",
        headers=list(headers),
        client="203.0.113.5",
        scheme="https",
        id="r",
        body=body,
    )


@pytest.fixture
async def ada(host: Host) -> str:
    """A token of an OPERATOR."""
    return await token_of(host, await make_user(host, "ada", role=Role.OPERATOR))


async def test_every_bad_credential_gets_the_same_answer(client: httpx.AsyncClient, host: Host, ada: str) -> None:
    metrics, metrics_value = await tokens.create_token(host, name="m", kind="metrics", requested_by=SYSTEM)
    revoked = await token_of(host, await make_user(host, "bob"))
    await tokens.revoke_token(host, (await tokens.list_tokens(host))[0][0].id, requested_by=SYSTEM)
    bad = [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {ada}x",
        f"Bearer {ada[:-1]}",
        f"Bearer {ada.upper()}",
        f"Bearer {ada.replace('user', 'agent')}",
        f"Bearer {ada} {ada}",
        f"Bearer {ada},{ada}",
        f"Bearer\t{ada}",
        f"Basic {ada}",
        f"Token {ada}",
        ada,
        f"Bearer {revoked}",
        f"Bearer {metrics_value}",
        "Bearer clv_user_" + "0" * 43,
        "Bearer " + "x" * 8000,
        "Bearer \x80\xff",
        "Bearer clv_' OR 1=1 --",
    ]
    answers = set()
    for value in bad:
        reply = await client.get(ME, headers=[(b"authorization", value.encode("latin-1"))])
        answers.add((reply.status_code, reply.headers["www-authenticate"], reply.content))
    for headers in (
        [],
        [(b"cookie", b"__Host-clavitor_session=wrong")],
        [(b"cookie", b"__Host-clavitor_session=")],
        [(b"authorization", f"Bearer {ada}".encode()), (b"authorization", f"Bearer {ada}".encode())],
    ):
        reply = await client.get(ME, headers=headers)
        answers.add((reply.status_code, reply.headers["www-authenticate"], reply.content))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 401
    assert metrics.kind == "metrics"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_the_scheme_may_be_written_in_any_case(client: httpx.AsyncClient, ada: str, scheme: str) -> None:
    assert (await client.get(ME, headers={"Authorization": f"{scheme} {ada}"})).status_code == 200


async def test_who_the_token_is_of(host: Host, ada: str) -> None:
    identity = await authenticate(host, a_request(host, (b"authorization", b"Bearer " + ada.encode())))
    assert identity is not None
    assert (identity.kind, identity.actor, identity.role, identity.scope, identity.via, identity.source) == (
        "user",
        "ada",
        Role.OPERATOR,
        "write",
        "token",
        "203.0.113.5",
    )


async def test_no_credential_is_nobody(host: Host) -> None:
    assert await authenticate(host, a_request(host)) is None
    assert await authenticate(host, a_request(host, (b"cookie", b"other=1; x__Host-clavitor_session=2"))) is None


async def test_a_bearer_token_counts_before_a_cookie(client: httpx.AsyncClient, host: Host, ada: str) -> None:
    await make_user(host, "bob", password=PASSWORD)
    await log_in(client, "bob")
    assert (await client.get(ME)).json()["actor"] == "bob"
    assert (await client.get(ME, headers={"Authorization": f"Bearer {ada}"})).json()["actor"] == "ada"
    assert (await client.get(ME, headers={"Authorization": "Bearer wrong"})).status_code == 401


async def test_a_metrics_token_is_good_for_metrics_only(host: Host, browser: Browser) -> None:
    _, value = await tokens.create_token(host, name="prometheus", kind="metrics", requested_by=SYSTEM)
    program = await browser(token=value)
    assert (await program.get("/api/v1/prometheus")).status_code == 200
    for path in (ME, "/api/entries", "/api/v1/admin/users", "/api/v1/admin/audit"):
        assert (await program.get(path)).status_code == 401


async def test_an_agent_token_reaches_its_environment(host: Host, browser: Browser) -> None:
    about = {"kind": "agent", "agent_id": "a1", "environment_id": "prod", "scope": "write"}
    _, value = await tokens.create_token(host, name="agent", requested_by=SYSTEM, **about)  # type: ignore[arg-type]
    identity = await authenticate(host, a_request(host, (b"authorization", b"Bearer " + value.encode())))
    assert identity == Identity(
        "agent",
        "agent:a1",
        token_id=identity.token_id if identity else None,
        environment_id="prod",
        agent_id="a1",
        source="203.0.113.5",
    )
    program = await browser(token=value)
    assert (await program.put("/api/entries/one", json={"encrypted_data": "c2VhbGVk"})).status_code == 201
    for path in (ME, "/api/v1/admin/users", "/api/v1/admin/tokens", "/api/v1/admin/audit"):
        assert (await program.get(path)).status_code == 403


async def test_an_agent_token_writes_nothing_unless_it_is_said(host: Host, browser: Browser) -> None:
    made, value = await tokens.create_token(host, name="a", kind="agent", environment_id="prod", requested_by=SYSTEM)
    assert made.scope == "read"
    program = await browser(token=value)
    refused = await program.put("/api/entries/one", json={"encrypted_data": "c2VhbGVk"})
    assert (refused.status_code, refused.json()["detail"]) == (403, "The token's scope is read.")


async def test_plugins_are_asked_about_what_the_host_does_not_know(
    host: Host, policies: Policies, client: httpx.AsyncClient
) -> None:
    asked: list[str | None] = []

    def who(request: Request) -> Identity | None:
        asked.append(request.header(b"authorization"))
        return Identity("user", "scim", Role.ADMIN, via="plugin")

    policies.who = who
    assert (await client.get(ME, headers={"Authorization": "Bearer of-a-plugin"})).json()["actor"] == "scim"
    assert (await client.get(ME)).json()["via"] == "plugin"
    assert asked == ["Bearer of-a-plugin", None]
    identity = await authenticate(host, a_request(host))
    assert identity is not None and identity.source == "203.0.113.5"


async def test_plugins_are_not_asked_about_a_token_of_ours_that_is_not_good(
    host: Host, policies: Policies, client: httpx.AsyncClient, clock: ShiftedClock
) -> None:
    policies.who = lambda _: pytest.fail("asked")
    user = await make_user(host, "ada")
    value = await token_of(host, user, expires_at=clock.now_us() + 1_000_000)
    clock.ahead = 2
    assert (await client.get(ME, headers={"Authorization": f"Bearer {value}"})).status_code == 401


async def test_a_plugin_that_fails_refuses(policies: Policies, client: httpx.AsyncClient) -> None:
    def broken(_: Request) -> Identity | None:
        raise RuntimeError("bug")

    policies.who = broken
    plain = await client.get(ME)
    assert (plain.status_code, plain.json()["code"]) == (401, "unauthorized")

    def down(_: Request) -> Identity | None:
        raise problem(503, "down", "later")

    policies.who = down
    assert (await client.get(ME)).status_code == 503


async def test_last_use_is_written_by_the_job_and_not_by_the_request(
    host: Host, client: httpx.AsyncClient, ada: str, clock: ShiftedClock
) -> None:
    clock.ahead = 100
    headers = {"Authorization": f"Bearer {ada}"}
    before = clock.now_us()
    for _ in range(3):
        assert (await client.get(ME, headers=headers)).status_code == 200
    query = sa.select(tokens_table.c.last_used_at)
    assert await host.db.fetch_val(query) is None
    await flush_last_used(host)
    used = await host.db.fetch_val(query)
    assert before <= used <= clock.now_us()
    await flush_last_used(host)
    assert await host.db.fetch_val(query) == used


async def test_last_use_of_many_tokens_is_each_ones_own(host: Host, client: httpx.AsyncClient) -> None:
    user = await make_user(host, "ada")
    values = [await token_of(host, user) for _ in range(12)]
    for value in values[:10]:
        await client.get(ME, headers={"Authorization": f"Bearer {value}"})
    await flush_last_used(host)
    found, _ = await tokens.list_tokens(host)
    times = [token.last_used_at for token in reversed(found)]
    assert times[10:] == [None, None]
    assert all(times[:10]) and times[:10] == sorted(t for t in times[:10] if t) and len(set(times[:10])) == 10


async def test_writing_the_last_use_does_not_bring_a_revoked_token_back(
    host: Host, client: httpx.AsyncClient, ada: str
) -> None:
    headers = {"Authorization": f"Bearer {ada}"}
    assert (await client.get(ME, headers=headers)).status_code == 200
    await tokens.revoke_token(host, (await tokens.list_tokens(host))[0][0].id, requested_by=SYSTEM)
    await flush_last_used(host)
    assert await host.db.fetch_all(sa.select(tokens_table)) == []


async def test_a_session_that_is_used_does_not_become_idle(
    host: Host, client: httpx.AsyncClient, clock: ShiftedClock
) -> None:
    await make_user(host, "ada", password=PASSWORD)
    await log_in(client, "ada")
    for step in range(1, 4):
        clock.ahead = step * 5000
        assert (await client.get(ME)).status_code == 200
        if step == 2:
            await flush_last_used(host)
    seen = await host.db.fetch_val(sa.select(sessions_table.c.last_seen_at))
    assert seen == pytest.approx(clock.now_us() - 5_000_000_000, abs=5_000_000)
    clock.ahead += 7300
    assert (await client.get(ME)).status_code == 401


async def test_authentication_costs_one_read_and_little_more(host: Host, ada: str) -> None:
    request = a_request(host, (b"host", b"vault.test"), (b"authorization", b"Bearer " + ada.encode()))
    reads = 0
    point_read = host.db.point_read

    async def counting(*args: object) -> object:
        nonlocal reads
        reads += 1
        return await point_read(*args)  # type: ignore[arg-type]

    host.db.point_read = counting  # type: ignore[method-assign,assignment]
    await authenticate(host, request)
    assert reads == 1
    host.db.point_read = point_read  # type: ignore[method-assign]
    if host.db.dialect != "sqlite":
        return
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            await authenticate(host, request)
        best = min(best, (time.perf_counter() - start) / 100)
        await asyncio.sleep(0)
    print(f"authenticate: {best * 1e6:.1f} µs")
    assert best < 100e-6
