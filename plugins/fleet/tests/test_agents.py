"""Agents through REST: registering, heartbeats, seats, going."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_fleet.agents import heartbeats, liveness
from clavitor_fleet.agents.jobs import end_silent, forget, sweep_stale
from clavitor_fleet_testing.agents import register
from clavitor_fleet_testing.server import Server, Start, fresh_database, servers
from clavitor_licensing_testing.server import FrozenClock

INTERVAL = 30
DAY = 86_400


@pytest.fixture
async def app(fleet: Server) -> str:
    return await fleet.app(await fleet.environment())


async def seats(fleet: Server) -> int:
    async with fleet.host.db.transaction() as tx:
        return (await fleet.host.cap_usage(tx, ["max_agents"]))["max_agents"]


async def test_an_agent_registers_and_is_listed(fleet: Server, app: str) -> None:
    made = await fleet.post("agents/register", {"app_id": app, "instance_id": "shop-1", "version": "1.0"})
    agent = made["agent"]
    assert (agent["state"], agent["name"], agent["version"], agent["app_id"]) == ("LIVE", "shop-1", "1.0", app)
    assert (made["token"][:10], made["heartbeat_interval"]) == ("clv_agent_", INTERVAL)
    assert (await fleet.get("agents"))["agents"] == [agent] == [await fleet.get(f"agents/{agent['id']}")]
    assert (await fleet.get("agents", state="STALE"))["agents"] == []
    assert (await fleet.get("agents", app_id="other"))["agents"] == []
    rows = await fleet.audit(category="FLEET")
    assert rows[0]["action"] == "register_agent"
    assert made["token"] not in str(rows)
    client = await fleet.client(made["token"])
    assert (await client.get(f"/api/v1/agents/{agent['id']}")).json() == agent


async def test_an_agent_reaches_only_itself(fleet: Server, app: str) -> None:
    first, second = await register(fleet, app, "one"), await register(fleet, app, "two")
    assert (await first.client.get(second.path)).status_code == 403
    assert (await first.client.get("/api/v1/agents")).status_code == 403
    assert (await first.client.post(f"{second.path}/heartbeat", json={})).status_code == 403
    assert (await first.client.get(f"{second.path}/events")).status_code == 403
    assert (await first.client.post(f"{first.path}/commands", json={"type": "stop"})).status_code == 403
    assert (await first.client.get("/api/v1/apps")).status_code == 403
    assert (await fleet.admin.post(f"{first.path}/heartbeat", json={})).status_code == 403
    assert (await fleet.admin.get(f"{first.path}/events")).status_code == 403


async def test_registering_again_is_the_same_agent_with_another_token(fleet: Server, app: str) -> None:
    first = await register(fleet, app, "one")
    again = await register(fleet, app, "one", version="2.0", expect=200)
    assert (again.id, await seats(fleet)) == (first.id, 1)
    assert (await first.client.get(first.path)).status_code == 401
    assert (await again.client.get(again.path)).json()["version"] == "2.0"


async def test_an_agent_registers_itself_again_and_no_other(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    body = {"app_id": app, "instance_id": "two", "version": "1"}
    assert (await agent.client.post("/api/v1/agents/register", json=body)).status_code == 403
    again = await agent.client.post("/api/v1/agents/register", json={**body, "instance_id": "one"})
    assert (again.status_code, again.json()["agent"]["id"]) == (200, agent.id)
    assert len((await fleet.get("agents"))["agents"]) == 1


async def test_a_registration_token_registers_agents_of_its_environment(fleet: Server) -> None:
    mine, other = await fleet.environment("mine"), await fleet.environment("other")
    app, far = await fleet.app(mine), await fleet.app(other)
    made = await fleet.post("admin/tokens", {"name": "nodes", "kind": "agent", "scope": "read", "environment_id": mine})
    client = await fleet.client(made["token"])
    body = {"app_id": app, "instance_id": "one", "version": "1"}
    reply = await client.post("/api/v1/agents/register", json=body)
    assert (reply.status_code, reply.json()["agent"]["environment_id"]) == (201, mine)
    refused = await client.post("/api/v1/agents/register", json={**body, "app_id": far})
    assert (refused.status_code, refused.json()["field"]) == (422, "app_id")
    wider = await client.post("/api/v1/agents/register", json={**body, "instance_id": "two", "scope": "write"})
    assert wider.status_code == 403
    assert (await client.post(f"/api/v1/agents/{reply.json()['agent']['id']}/heartbeat", json={})).status_code == 403
    assert len((await fleet.get("agents"))["agents"]) == 1


async def test_a_viewer_registers_nobody(fleet: Server, app: str) -> None:
    viewer = await fleet.harness.client_for("VIEWER")
    body = {"app_id": app, "instance_id": "one", "version": "1"}
    assert (await viewer.post("/api/v1/agents/register", json=body)).status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"app_id": "nowhere"}, 422, "app_id"),
        ({"app_id": "\x00"}, 400, "app_id"),
        ({"deployment_id": "nowhere"}, 422, "deployment_id"),
        ({"deployment_id": "\x00"}, 400, "deployment_id"),
        ({"instance_id": ""}, 400, "instance_id"),
        ({"instance_id": " x"}, 400, "instance_id"),
        ({"version": "\x00"}, 400, "version"),
        ({"scope": "admin"}, 400, "scope"),
        ({"more": 1}, 400, "more"),
    ],
)
async def test_what_cannot_register_names_the_field(
    fleet: Server, app: str, body: dict[str, Any], status: int, field: str
) -> None:
    whole = {"app_id": app, "instance_id": "one", "version": "1", **body}
    refused = await fleet.post("agents/register", whole, expect=status)
    assert refused["field"] == field
    assert (await fleet.get("agents"))["agents"] == []


async def test_an_agent_is_live_until_it_has_missed_three_heartbeats(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    fleet.clock.now += 3 * INTERVAL
    assert (await agent.state(), await seats(fleet)) == ("LIVE", 1)
    fleet.clock.now += 0.001
    assert (await agent.state(), await seats(fleet)) == ("STALE", 0)
    assert [one["id"] for one in (await fleet.get("agents", state="STALE"))["agents"]] == [agent.id]


async def test_heartbeats_keep_an_agent_live(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    for _ in range(5):
        fleet.clock.now += 2 * INTERVAL
        beat = (await agent.heartbeat(status="warming up")).json()
        assert (beat["state"], beat["heartbeat_interval"], beat["pending_commands"]) == ("LIVE", INTERVAL, 0)
    shown = await fleet.get(f"agents/{agent.id}")
    assert (shown["status"], shown["last_seen"]) == ("warming up", fleet.host.clock.now_us())


async def test_a_heartbeat_needs_no_body(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    await agent.heartbeat(status="busy")
    fleet.clock.now += 2 * INTERVAL
    beat = await agent.client.post(f"{agent.path}/heartbeat")
    assert (beat.status_code, beat.json()["state"]) == (200, "LIVE")
    shown = await fleet.get(f"agents/{agent.id}")
    assert (shown["status"], shown["last_seen"]) == ("busy", fleet.host.clock.now_us())
    for wrong in (b"nonsense", b"[]", b'{"more": 1}'):
        refused = await agent.client.post(f"{agent.path}/heartbeat", content=wrong)
        assert refused.status_code == 400


async def test_many_heartbeats_at_once_are_all_heard(fleet: Server, app: str) -> None:
    agents = [await register(fleet, app, f"agent-{number}") for number in range(5)]
    fleet.clock.now += INTERVAL
    beats = await asyncio.gather(*(agent.heartbeat(status=agent.id[-5:]) for agent in agents))
    assert [beat.status_code for beat in beats] == [200] * 5
    shown = (await fleet.get("agents"))["agents"]
    assert {one["last_seen"] for one in shown} == {fleet.host.clock.now_us()}
    assert all(one["status"] == one["id"][-5:] for one in shown)


async def test_a_stale_agent_comes_back_by_a_heartbeat(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    fleet.clock.now += 4 * INTERVAL
    await sweep_stale(fleet.fleet)
    await sweep_stale(fleet.fleet)
    assert (await agent.heartbeat()).json()["state"] == "LIVE"
    assert (await agent.state(), await seats(fleet)) == ("LIVE", 1)
    actions = [row["action"] for row in await fleet.audit(category="FLEET")][:3]
    assert actions == ["return_agent", "stale_agents", "register_agent"]


async def test_a_stale_agent_is_an_agent_event(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    fleet.clock.now += 4 * INTERVAL
    await sweep_stale(fleet.fleet)
    rows = (await fleet.get("telemetry/agent_events"))["rows"]
    assert [(row["type"], row["agent_id"]) for row in rows] == [("agent.stale", agent.id)]


async def test_a_deleted_agent_is_gone_and_its_token_ends(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    await fleet.delete(f"agents/{agent.id}")
    await fleet.delete(f"agents/{agent.id}")
    assert (await agent.state(), await seats(fleet)) == ("GONE", 0)
    assert (await agent.heartbeat()).status_code == 401
    back = await register(fleet, app, "one", expect=200)
    assert (back.id, await back.state(), await seats(fleet)) == (agent.id, "LIVE", 1)


async def test_an_agent_that_stops_takes_itself_away(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    assert (await agent.client.delete(agent.path)).status_code == 204
    assert await agent.state() == "GONE"


async def test_an_agent_that_is_stale_for_a_day_is_gone_and_then_forgotten(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    await fleet.post(f"agents/{agent.id}/commands", {"type": "stop"})
    fleet.clock.now += DAY
    await end_silent(fleet.fleet)
    assert await agent.state() == "STALE"
    fleet.clock.now += 4 * INTERVAL
    await end_silent(fleet.fleet)
    assert await agent.state() == "GONE"
    assert (await agent.heartbeat()).status_code == 401
    await forget(fleet.fleet)
    fleet.clock.now += 7 * DAY + 1
    await forget(fleet.fleet)
    await fleet.get(f"agents/{agent.id}", expect=404)


async def test_an_app_with_agents_is_in_use_until_they_are_gone(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    refused = await fleet.delete(f"apps/{app}", expect=409)
    assert refused["used_by"] == {"agents": 1}
    await fleet.delete(f"agents/{agent.id}")
    await fleet.delete(f"apps/{app}")
    await fleet.get(f"agents/{agent.id}", expect=404)


async def test_a_token_of_another_environment_knows_of_no_agent(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    elsewhere = await fleet.environment("elsewhere")
    client = await fleet.harness.client_for("OPERATOR", environment_id=elsewhere)
    assert (await client.get("/api/v1/agents")).json()["agents"] == []
    for reply in (await client.get(agent.path), await client.delete(agent.path)):
        assert (reply.status_code, reply.json()["code"]) == (404, "agent_not_found")
    assert (await client.post(f"{agent.path}/commands", json={"type": "x"})).status_code == 404


async def test_commands_are_sent_listed_and_acknowledged(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    first = await fleet.post(f"agents/{agent.id}/commands", {"type": "restart", "payload": {"in": 5}})
    second = await fleet.post(f"agents/{agent.id}/commands", {"type": "stop"})
    assert (first["seq"], first["status"], first["payload"], second["seq"]) == (1, "PENDING", {"in": 5}, 2)
    assert (await agent.heartbeat()).json()["pending_commands"] == 2
    path = f"{agent.path}/commands/{first['id']}/ack"
    done = await agent.client.post(path, json={"status": "DONE", "detail": "restarted"})
    again = await agent.client.post(path, json={"status": "DONE"})
    assert done.json() == again.json()
    assert (done.json()["status"], done.json()["detail"]) == ("DONE", "restarted")
    assert (await agent.client.post(path, json={"status": "FAILED"})).json()["code"] == "command_ended"
    failed = await agent.client.post(f"{agent.path}/commands/{second['id']}/ack", json={"status": "FAILED"})
    assert failed.json()["status"] == "FAILED"
    assert (await fleet.admin.post(path, json={"status": "DONE"})).status_code == 403
    listed = await fleet.get(f"agents/{agent.id}/commands", limit=1)
    assert [one["id"] for one in listed["commands"]] == [first["id"]]
    more = await fleet.get(f"agents/{agent.id}/commands", cursor=listed["next_cursor"])
    assert ([one["id"] for one in more["commands"]], more["next_cursor"]) == ([second["id"]], None)
    assert (await fleet.get(f"agents/{agent.id}/commands", status="PENDING"))["commands"] == []


async def test_a_command_that_nobody_acknowledges_expires(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    sent = await fleet.post(f"agents/{agent.id}/commands", {"type": "stop", "expires_in": 60})
    fleet.clock.now += 60
    for _ in range(2):
        listed = await fleet.get(f"agents/{agent.id}/commands", status="EXPIRED")
        assert [(one["id"], one["status"]) for one in listed["commands"]] == [(sent["id"], "EXPIRED")]
        refused = await agent.client.post(f"{agent.path}/commands/{sent['id']}/ack", json={"status": "DONE"})
        assert refused.status_code == 409
        await forget(fleet.fleet)


@pytest.mark.parametrize(
    "body", [{}, {"type": "no spaces"}, {"type": "x", "payload": []}, {"type": "x", "expires_in": 0}]
)
async def test_what_is_no_command_is_a_400(fleet: Server, app: str, body: dict[str, Any]) -> None:
    agent = await register(fleet, app, "one")
    assert (await fleet.post(f"agents/{agent.id}/commands", body, expect=400))["code"] == "invalid_field"


async def test_a_wrong_type_of_command_is_told_in_words(quick_start: Start) -> None:
    fleet = await quick_start()
    agent = await register(fleet, await fleet.app(await fleet.environment()), "one")
    refused = await fleet.post(f"agents/{agent.id}/commands", {"type": "no spaces"}, expect=400)
    assert (refused["field"], refused["detail"]) == ("type", "type: expected 1 to 64 of A-Z a-z 0-9 . _ -.")
    refused = await fleet.post("agents/register", {"app_id": "a b", "instance_id": "a", "version": "1"}, expect=400)
    assert refused["detail"] == "app_id: expected 1 to 128 of A-Z a-z 0-9 . _ -."


async def test_commands_are_bounded(fleet: Server, app: str) -> None:
    agent = await register(fleet, app, "one")
    large = await fleet.post(f"agents/{agent.id}/commands", {"type": "x", "payload": {"a": "x" * 65_536}}, expect=422)
    assert large["field"] == "payload"
    for _ in range(100):
        await fleet.post(f"agents/{agent.id}/commands", {"type": "x"})
    assert (await fleet.post(f"agents/{agent.id}/commands", {"type": "x"}, expect=409))["code"] == "too_many_commands"
    await fleet.delete(f"agents/{agent.id}")
    assert (await fleet.post(f"agents/{agent.id}/commands", {"type": "x"}, expect=409))["code"] == "agent_gone"


async def registered(server: Server, app: str, name: str) -> httpx.Response:
    body = {"app_id": app, "instance_id": name, "version": "1"}
    return await server.admin.post("/api/v1/agents/register", json=body)


async def test_over_the_cap_nobody_registers_and_a_free_seat_is_had_once(start: Start) -> None:
    """Without a license five agents may live (seed section 3.2)."""
    fleet = await start(licensing=True)
    app = await fleet.app(await fleet.environment())
    agents = [await register(fleet, app, f"agent-{number}") for number in range(5)]
    refused = await registered(fleet, app, "late")
    assert (refused.status_code, refused.json()["error"], refused.json()["limit"]) == (
        403,
        "license cap reached",
        "max_agents",
    )
    assert len((await fleet.get("agents"))["agents"]) == 5
    assert (await registered(fleet, app, "agent-0")).status_code == 200  # it has its seat already
    fleet.clock.now += 4 * INTERVAL
    late = [await register(fleet, app, f"late-{number}") for number in range(5)]
    beat = await agents[1].heartbeat()
    assert (beat.status_code, beat.json()["code"]) == (403, "license_cap_reached")
    for path in ("events", "commands"):
        assert (await agents[1].client.get(f"{agents[1].path}/{path}")).json()["code"] == "agent_not_live"
    await fleet.delete(f"agents/{late[0].id}")
    assert (await agents[1].heartbeat()).status_code == 200
    assert (await agents[2].heartbeat()).status_code == 403
    assert await seats(fleet) == 5


async def test_a_heartbeat_that_is_not_committed_yet_keeps_its_seat_from_a_newcomer(
    tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL alone: on SQLite the newcomer waits for the heartbeat's commit anyway."""
    beaten, committing, marking = asyncio.Event(), asyncio.Event(), asyncio.Event()
    pending, mark = heartbeats._pending, liveness.mark_stale

    async def hold(*given: Any) -> Any:
        beaten.set()
        await committing.wait()
        return await pending(*given)

    async def note(*given: Any) -> Any:
        marking.set()
        return await mark(*given)

    async with fresh_database("postgresql", tmp_path) as url, servers(tmp_path, url, clock) as start:
        fleet = await start(licensing=True)
        app = await fleet.app(await fleet.environment())
        agent = await register(fleet, app, "one")
        fleet.clock.now += 2 * INTERVAL
        for number in range(4):
            await register(fleet, app, f"agent-{number}")
        monkeypatch.setattr(heartbeats, "_pending", hold)
        fleet.clock.now += INTERVAL
        beat = asyncio.create_task(agent.heartbeat())
        async with asyncio.timeout(20):
            await beaten.wait()
            fleet.clock.now += 0.001  # the newcomer sees that it has missed its heartbeats
            monkeypatch.setattr(liveness, "mark_stale", note)
            newcomer = asyncio.create_task(registered(fleet, app, "late"))
            await marking.wait()
            committing.set()
            beaten_at, refused = await beat, await newcomer
        assert (beaten_at.status_code, await seats(fleet)) == (200, 5)
        assert (refused.status_code, refused.json()["code"]) == (403, "license_cap_reached")


async def test_a_heartbeat_in_the_last_moment_and_a_newcomer_do_not_both_get_the_seat(start: Start) -> None:
    fleet = await start(licensing=True)
    app = await fleet.app(await fleet.environment())
    agents = [await register(fleet, app, f"agent-{number}") for number in range(5)]
    for round_ in range(5):
        fleet.clock.now += 3 * INTERVAL

        async def move() -> None:
            fleet.clock.now += 0.001

        await asyncio.gather(
            *(agent.heartbeat() for agent in agents),
            move(),
            *(registered(fleet, app, f"late-{round_}-{number}") for number in range(3)),
        )
        assert await seats(fleet) <= 5
        live = (await fleet.get("agents", state="LIVE"))["agents"]
        agents = [agent for agent in agents if agent.id in {one["id"] for one in live}] or agents
