"""While no server runs, no agent misses a heartbeat."""

from __future__ import annotations

import pytest
from clavitor_fleet.agents import watch
from clavitor_fleet.agents.jobs import sweep_stale
from clavitor_fleet_testing.agents import Agent, register
from clavitor_fleet_testing.server import Server, Start

INTERVAL = 30
HOUR = 3600


@pytest.fixture(autouse=True)
def only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test says when a process looks, by `note_look`."""

    async def nothing(host: object) -> None:
        """Do not look."""

    monkeypatch.setattr("clavitor_fleet.agents.jobs.note_look", nothing)


def known_by(agent: Agent, server: Server) -> Agent:
    return Agent(server, agent.id, agent.token, agent.client)


async def test_who_was_live_when_the_last_server_stopped_is_live_when_one_starts(start: Start) -> None:
    first = await start()
    app = await first.app(await first.environment())
    stale = await register(first, app, "stale")
    silent = await register(first, app, "silent for longer than it may")
    first.clock.now += INTERVAL
    live = await register(first, app, "live")
    first.clock.now += INTERVAL * 2.5
    await first.host.db.execute("UPDATE agents SET stale_at = 1 WHERE id = :id", {"id": stale.id})
    await watch.note_look(first.host)
    first.clock.now += HOUR
    second = await start(stop=first)
    states = [await known_by(one, second).state() for one in (stale, silent, live)]
    assert states == ["STALE", "STALE", "LIVE"]
    await sweep_stale(second.fleet)
    assert await known_by(live, second).state() == "LIVE"
    second.clock.now += 3 * INTERVAL + 1
    await sweep_stale(second.fleet)
    assert await known_by(live, second).state() == "STALE"


async def test_a_process_that_starts_beside_others_excuses_nobody(start: Start) -> None:
    first = await start()
    agent = await register(first, await first.app(await first.environment()), "one")
    first.clock.now += 3 * INTERVAL
    await watch.note_look(first.host)
    first.clock.now += 2
    second = await start()
    assert await known_by(agent, second).state() == "STALE"


async def test_of_processes_that_start_together_the_first_excuses(start: Start) -> None:
    first = await start()
    agent = await register(first, await first.app(await first.environment()), "one")
    await watch.note_look(first.host)
    first.clock.now += HOUR
    second = await start(stop=first)
    seen = (await second.get(f"agents/{agent.id}"))["last_seen"]
    second.clock.now += 1
    third = await start()
    assert (await third.get(f"agents/{agent.id}"))["last_seen"] == seen == second.host.clock.now_us() - 1_000_000


async def test_a_license_that_was_lowered_meanwhile_takes_no_seat_away(start: Start) -> None:
    """Without a license five agents may live; eight do, from when there was one."""
    first = await start()
    app = await first.app(await first.environment())
    agents = [await register(first, app, f"agent-{number}") for number in range(8)]
    await watch.note_look(first.host)
    first.clock.now += HOUR
    second = await start(stop=first, licensing=True)
    assert [await known_by(agent, second).state() for agent in agents] == ["LIVE"] * 8
    client = await second.client(agents[7].token)
    assert (await client.post(f"{agents[7].path}/heartbeat")).status_code == 200
    body = {"app_id": app, "instance_id": "late", "version": "1"}
    assert (await second.post("agents/register", body, expect=403))["code"] == "license_cap_reached"


async def test_a_look_is_written_only_now_and_then(quick_start: Start) -> None:
    fleet = await quick_start()

    async def looked_at() -> int:
        found: int = await fleet.host.db.fetch_val("SELECT looked_at FROM agent_watch")
        return found

    began = await looked_at()
    fleet.clock.now += 1
    await watch.note_look(fleet.host)
    assert await looked_at() == began
    fleet.clock.now += 1
    await watch.note_look(fleet.host)
    assert await looked_at() == began + 2_000_000
    fleet.clock.now -= HOUR
    await watch.note_look(fleet.host)
    assert await looked_at() == fleet.host.clock.now_us()
