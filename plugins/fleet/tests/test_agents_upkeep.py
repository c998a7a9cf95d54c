"""What is done for agents beside their requests: who is stale is told, who is gone is ended, what is over forgotten."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
import sqlalchemy as sa
from clavitor_fleet.agents import jobs, registration
from clavitor_fleet.agents.jobs import end_silent, forget, sweep_stale
from clavitor_fleet.agents.liveness import note_stale
from clavitor_fleet.agents.tables import agent_commands
from clavitor_fleet_testing.agents import register
from clavitor_fleet_testing.server import Server, Start

from clavitor_host.api import StorageUnavailable

LATE = 100
DAY = 86_400


@pytest.fixture
async def app(fleet: Server) -> str:
    return await fleet.app(await fleet.environment())


async def reported(fleet: Server) -> list[str]:
    """Return whose becoming stale is in telemetry."""
    rows = (await fleet.get("telemetry/agent_events", limit="1000"))["rows"]
    assert {row["type"] for row in rows} <= {"agent.stale"}
    return sorted(row["agent_id"] for row in rows)


async def test_whoever_notes_that_an_agent_is_stale_it_is_reported(fleet: Server, app: str) -> None:
    one, two = await register(fleet, app, "one"), await register(fleet, app, "two")
    fleet.clock.now += LATE
    await register(fleet, app, "three")
    assert (await two.heartbeat()).status_code == 200  # that it is back does not undo that it was stale
    for _ in range(2):
        await sweep_stale(fleet.fleet)
        assert await reported(fleet) == sorted([one.id, two.id])


async def test_stale_agents_are_reported_by_an_insert_for_each_app_however_many_they_are(
    fleet: Server, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_REPORTED", 3)
    other = await fleet.app(await fleet.environment("other"), "other")
    agents = [await register(fleet, of, f"agent-{number}") for of in (app, other) for number in range(4)]
    inserts: list[int] = []
    insert = fleet.fleet.telemetry.insert

    async def counted(*args: Any, **more: Any) -> Any:
        inserts.append(len(args[2]))
        return await insert(*args, **more)

    monkeypatch.setattr(fleet.fleet.telemetry, "insert", counted)
    fleet.clock.now += LATE
    await sweep_stale(fleet.fleet)
    assert await reported(fleet) == sorted(agent.id for agent in agents)
    assert sorted(inserts) == [1, 2, 2, 3]
    rows = (await fleet.get("telemetry/agent_events", app_id=other))["rows"]
    assert sorted(row["agent_id"] for row in rows) == sorted(agent.id for agent in agents[4:])


async def test_what_telemetry_did_not_take_is_reported_later(
    fleet: Server, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await register(fleet, app, "one")

    async def broken(*_: object, **__: object) -> bool:
        raise StorageUnavailable("away")

    fleet.clock.now += LATE
    with monkeypatch.context() as patched:
        patched.setattr(fleet.fleet.telemetry, "insert", broken)
        await sweep_stale(fleet.fleet)
    assert await reported(fleet) == []
    await sweep_stale(fleet.fleet)
    assert await reported(fleet) == [agent.id]


async def test_an_agent_that_the_license_refuses_a_seat_is_written_down_once(start: Start) -> None:
    fleet = await start(licensing=True)
    app = await fleet.app(await fleet.environment())
    without = [await register(fleet, app, f"a{number}") for number in range(5)]
    fleet.clock.now += LATE
    having = [await register(fleet, app, f"b{number}") for number in range(5)]
    bodies = set()
    for _ in range(3):
        for agent in without:
            reply = await agent.heartbeat()
            assert reply.status_code == 403
            bodies.add(reply.text)
    rows = await fleet.audit(category="LICENSE", action="cap_exceeded")
    assert (len(rows), len(bodies)) == (5, 1)
    await fleet.delete(f"agents/{having[0].id}")
    assert [(await agent.heartbeat()).status_code for agent in without[:2]] == [200, 403]
    fleet.clock.now += LATE
    await sweep_stale(fleet.fleet)
    assert (await without[1].heartbeat()).status_code == 200
    assert [await agent.state() for agent in without] == ["STALE", "LIVE", "STALE", "STALE", "STALE"]


async def test_agents_that_are_silent_for_a_day_end_together(
    fleet: Server, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_ENDED", 3)
    agents = [await register(fleet, app, f"agent-{number}") for number in range(5)]
    await fleet.post(f"agents/{agents[0].id}/commands", {"type": "stop", "expires_in": 7 * DAY})
    fleet.clock.now += LATE + DAY
    staying = await register(fleet, app, "staying")
    await end_silent(fleet.fleet)
    assert [await agent.state() for agent in agents] == ["GONE"] * 5
    assert await staying.state() == "LIVE"
    assert (await fleet.get(f"agents/{agents[0].id}/commands"))["commands"][0]["status"] == "EXPIRED"
    assert {(await agent.heartbeat()).status_code for agent in agents} == {401}
    ended = [row["payload"]["agents"] for row in await fleet.audit(action="delete_agents")]
    assert [len(ids) for ids in ended] == [2, 3]
    assert sorted(id for ids in ended for id in ids) == sorted(agent.id for agent in agents)


async def test_everything_that_is_over_is_forgotten_at_once_in_short_transactions(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    old = fleet.clock.now_us() - 8 * DAY * 1_000_000
    row = {"agent_id": agent.id, "type": "x", "payload": "{}", "status": "DONE", "created_at": old, "created_by": "x"}
    rows = [
        {**row, "id": f"c{number}", "seq": number, "expires_at": old, "finished_at": old} for number in range(1, 502)
    ]
    async with fleet.host.db.transaction() as tx:
        await tx.insert_many(agent_commands, rows)
    await forget(fleet.fleet)
    assert await fleet.host.db.fetch_val(sa.select(sa.func.count()).select_from(agent_commands)) == 0


async def test_registering_and_revoking_a_token_never_wait_for_one_another(
    fleet: Server, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = await register(fleet, app, "one"), await register(fleet, app, "two")
    tokens = (await fleet.get("admin/tokens"))["tokens"]
    mine = next(token["id"] for token in tokens if token["agent_id"] == agent.id)
    fleet.clock.now += LATE
    reached = asyncio.Event()

    async def slow(*args: Any) -> None:
        await note_stale(*args)
        reached.set()
        await asyncio.sleep(0.5)

    monkeypatch.setattr(registration, "note_stale", slow)
    again = asyncio.create_task(register(fleet, app, "one", expect=200))
    await reached.wait()
    revoked = await fleet.admin.delete(f"/api/v1/admin/tokens/{mine}")
    assert revoked.status_code in (204, 404)
    await again


async def test_a_deployment_is_deleted_beside_an_agent_that_goes(fleet: Server, app: str) -> None:
    body = {"app_id": app, "replicas": 3, "cpu_millis": 1, "memory_mb": 1}
    deployment = (await fleet.post("deployments", body))["id"]
    agents = [await register(fleet, app, f"a{number}", deployment_id=deployment) for number in range(3)]
    await fleet.post(f"deployments/{deployment}/stop", expect=200)
    gone = asyncio.gather(*(fleet.delete(f"agents/{agent.id}") for agent in agents))
    await fleet.delete(f"deployments/{deployment}")
    await gone
    for agent in agents:
        assert (await fleet.get(f"agents/{agent.id}"))["deployment_id"] is None


async def test_a_command_is_where_its_location_says(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    made = await fleet.admin.post(f"{agent.path}/commands", json={"type": "stop"})
    location = made.headers["location"]
    for client in (fleet.admin, agent.client):
        assert (await client.get(location)).json() == made.json()
    missing = await fleet.admin.get(f"{agent.path}/commands/other")
    assert (missing.status_code, missing.json()["code"]) == (404, "command_not_found")
    stranger = await register(fleet, app, "two")
    assert (await stranger.client.get(location)).status_code == 403


@pytest.mark.parametrize("letter", ["x", "ü"])
async def test_a_page_of_commands_ends_after_some_bytes_and_has_one_at_least(
    fleet: Server, app: str, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    monkeypatch.setattr("clavitor_fleet.agents.commands.PAGE_BYTES", 2500)
    agent = await register(fleet, app, "one")
    for size in (1000, 1000, 1000, 3000, 10):
        payload = {"data": letter * (size // len(letter.encode()))}
        await fleet.post(f"agents/{agent.id}/commands", {"type": "x", "payload": payload})
    pages: list[list[int]] = []
    query: dict[str, Any] = {}
    while True:
        page = await fleet.get(f"agents/{agent.id}/commands", **query)
        pages.append([command["seq"] for command in page["commands"]])
        if page["next_cursor"] is None:
            break
        query = {"cursor": page["next_cursor"]}
    assert pages == [[1, 2], [3], [4], [5]]


async def test_names_in_the_document_are_those_that_are_taken(fleet: Server) -> None:
    schemas = (await fleet.get("openapi.json"))["components"]["schemas"]
    pattern = re.compile(schemas["EnvironmentOut"]["properties"]["name"]["pattern"])
    for name in ("Köln Süd", "prod:eu", "a"):
        assert pattern.fullmatch(name)
        await fleet.environment(name)
    for name in (" a", "a ", "", "a\nb"):
        assert not pattern.fullmatch(name)
        await fleet.post("environments", {"name": name}, expect=400)
