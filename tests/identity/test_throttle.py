"""Slowing down guesses at passwords, over several processes."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.host import Host
from clavitor_host.identity import throttle
from clavitor_host.identity.tables import login_failures
from clavitor_host.testing import Harness
from tests.identity.conftest import PASSWORD, Browser, ShiftedClock, StartApp, audit_rows, log_in, make_user

LOGIN = "/api/v1/login"


@pytest.fixture
def variables() -> dict[str, str]:
    return {"CLAVITOR_LOGIN_FAILURES_PER_NAME": "5", "CLAVITOR_LOGIN_FAILURES_PER_ADDRESS": "8"}


@pytest.fixture
async def ada(host: Host) -> None:
    await make_user(host, "ada", password=PASSWORD)


async def fail(client: httpx.AsyncClient, name: str = "ada") -> httpx.Response:
    return await client.post(LOGIN, json={"name": name, "password": "wrong"})


@pytest.mark.parametrize("name", ["ada", "nobody"])
async def test_after_five_failures_of_a_name_the_next_one_waits(
    client: httpx.AsyncClient, browser: Browser, clock: ShiftedClock, ada: None, name: str
) -> None:
    assert [(await fail(client, name)).status_code for _ in range(6)] == [401] * 5 + [429]
    elsewhere = await browser(address="198.51.100.9")
    reply = await elsewhere.post(LOGIN, json={"name": name.upper(), "password": PASSWORD})
    assert (reply.status_code, reply.json()["code"]) == (429, "too_many_logins")
    assert 1 <= int(reply.headers["Retry-After"]) <= 5
    clock.ahead += int(reply.headers["Retry-After"])
    assert (await fail(client, name)).status_code == 401


async def test_the_delays_grow_up_to_the_window(
    client: httpx.AsyncClient, host: Host, clock: ShiftedClock, ada: None
) -> None:
    delays = []
    for _ in range(16):
        reply = await fail(client)
        if reply.status_code == 429:
            delays.append(int(reply.headers["Retry-After"]))
            clock.ahead += delays[-1]
    assert [round(delay / 5) for delay in delays[:5]] == [1, 2, 4, 8, 16]
    assert max(delays) <= host.config.login.window


async def test_a_good_login_lets_the_name_start_anew(client: httpx.AsyncClient, ada: None) -> None:
    for _ in range(3):
        assert [(await fail(client)).status_code for _ in range(2)] == [401] * 2
        await log_in(client, "ada")


async def test_the_last_try_before_the_delay_may_be_the_good_one(client: httpx.AsyncClient, ada: None) -> None:
    for _ in range(4):
        await fail(client)
    await log_in(client, "ada")
    await log_in(client, "ada")


async def test_an_address_that_tries_many_names_is_slowed_down(
    client: httpx.AsyncClient, browser: Browser, ada: None
) -> None:
    assert [(await fail(client, f"user {n}")).status_code for n in range(9)] == [401] * 8 + [429]
    assert (await client.post(LOGIN, json={"name": "ada", "password": PASSWORD})).status_code == 429
    await log_in(await browser(address="198.51.100.9"), "ada")


async def test_good_logins_do_not_count_against_an_address(client: httpx.AsyncClient, ada: None) -> None:
    for _ in range(12):
        await log_in(client, "ada")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
async def test_what_counts_as_one_address(host: Host, one: str, other: str, same: bool) -> None:
    first, second = (set(throttle.attempt(host, "x", address).bounds) for address in (one, other))
    assert (first == second) is same


async def test_a_unix_socket_has_no_address_to_slow_down(host: Host) -> None:
    (key,) = throttle.attempt(host, "x", "").bounds
    assert key.startswith("name:")


async def test_failures_count_over_processes(
    client: httpx.AsyncClient, start_app: StartApp, browser: Browser, ada: None
) -> None:
    other: Harness = await start_app()
    second = await browser(app=other)
    seen = [(await fail((client, second)[n % 2])).status_code for n in range(6)]
    assert seen == [401] * 5 + [429]


async def test_many_at_once_get_no_more_tries(client: httpx.AsyncClient, ada: None) -> None:
    replies = await asyncio.gather(*(fail(client) for _ in range(20)))
    assert [reply.status_code for reply in replies].count(401) == 5


async def test_old_failures_do_not_count(client: httpx.AsyncClient, host: Host, clock: ShiftedClock, ada: None) -> None:
    for _ in range(4):
        await fail(client)
    clock.ahead += 901
    assert [(await fail(client)).status_code for _ in range(5)] == [401] * 5


async def test_throttled_logins_are_audited_once_and_cost_one_read(
    client: httpx.AsyncClient, host: Host, ada: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await fail(client)
    monkeypatch.setattr("clavitor_host.identity.passwords._verify", lambda *_: pytest.fail("checked"))
    assert (await fail(client)).status_code == 429
    monkeypatch.setattr(host.db, "begin", lambda **_: pytest.fail("wrote"))
    for _ in range(10):
        assert (await fail(client)).status_code == 429
    (row,) = await audit_rows(host, "login_throttled")
    assert (row["actor"], row["category"]) == ("anonymous", "IDENTITY")
    assert len(await audit_rows(host, "login_failed")) == 5


async def test_names_are_not_stored_with_the_failures(client: httpx.AsyncClient, host: Host) -> None:
    await fail(client, "a password typed into the wrong field")
    rows = await host.db.fetch_all(sa.select(login_failures))
    assert len(rows) == 2
    assert "password" not in str(rows)


async def test_what_no_longer_counts_is_purged(client: httpx.AsyncClient, host: Host, clock: ShiftedClock) -> None:
    await fail(client, "ada")
    await throttle.purge(host)
    assert len(await host.db.fetch_all(sa.select(login_failures))) == 2
    clock.ahead += 901
    await throttle.purge(host)
    assert await host.db.fetch_all(sa.select(login_failures)) == []
