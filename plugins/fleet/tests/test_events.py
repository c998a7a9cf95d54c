"""Event streams of agents: commands and changed entries, from exactly where the agent was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from clavitor_fleet.agents import catch_up
from clavitor_fleet.agents.jobs import sweep_stale
from clavitor_fleet.agents.stream import EventStream
from clavitor_fleet_testing.agents import Agent, Listener, register
from clavitor_fleet_testing.server import Server

INTERVAL = 30


@pytest.fixture
async def environment(fleet: Server) -> str:
    return await fleet.environment()


@pytest.fixture
async def agent(fleet: Server, environment: str) -> Agent:
    return await register(fleet, await fleet.app(environment), "one")


async def write(fleet: Server, entry_id: str, environment_id: str | None, data: str = "AAAA") -> int:
    """Write an entry; return its rev."""
    body = {"encrypted_data": data, "environment_id": environment_id}
    reply = await fleet.admin.put(f"/api/entries/{entry_id}", json=body)
    assert reply.status_code in (200, 201), reply.text
    return int(reply.json()["rev"])


async def command(fleet: Server, agent: Agent, type: str, **more: Any) -> dict[str, Any]:
    sent: dict[str, Any] = await fleet.post(f"agents/{agent.id}/commands", {"type": type, **more})
    return sent


async def test_a_stream_says_what_it_is(agent: Agent) -> None:
    async with Listener(agent) as listening:
        assert listening.status == 200
        assert listening.headers["content-type"].startswith("text/event-stream")
        assert listening.headers["cache-control"] == "no-store"
        assert listening.headers["x-accel-buffering"] == "no"
        assert listening.last_id == "0.0"


async def test_a_head_request_opens_no_stream(fleet: Server, agent: Agent) -> None:
    async with Listener(agent) as listening:
        reply = await agent.client.head(f"{agent.path}/events")
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
        await command(fleet, agent, "stop")
        assert (await listening.next())[0] == "command"


async def test_a_command_arrives_once_it_is_sent(fleet: Server, agent: Agent) -> None:
    async with Listener(agent) as listening:
        sent = await command(fleet, agent, "restart", payload={"in": 5})
        name, data = await listening.next()
        told = {key: sent[key] for key in ("id", "seq", "type", "payload", "created_at", "expires_at")}
        assert (name, data, listening.last_id) == ("command", told, "0.1")


async def test_commands_that_wait_come_first(fleet: Server, agent: Agent) -> None:
    types = ["a", "b", "c", "d"]
    sent = [await command(fleet, agent, type) for type in types]
    await agent.client.post(f"{agent.path}/commands/{sent[1]['id']}/ack", json={"status": "DONE"})
    await command(fleet, agent, "short", expires_in=1)
    fleet.clock.now += 1
    for _ in range(2):  # also the second time: they are not acknowledged
        async with Listener(agent) as listening:
            assert [(await listening.next())[1]["type"] for _ in range(3)] == ["a", "c", "d"]


async def test_entries_of_the_environment_arrive_and_no_others(fleet: Server, agent: Agent, environment: str) -> None:
    other = await fleet.environment("other")
    await write(fleet, "before", environment)
    async with Listener(agent) as listening:
        await write(fleet, "elsewhere", other)
        await write(fleet, "nowhere", None)
        rev = await write(fleet, "here", environment)
        name, data = await listening.next()
        assert (name, data["entry_id"], data["rev"], data["deleted"]) == ("entry", "here", rev, False)
        assert set(data) == {"entry_id", "rev", "deleted", "updated_at"}
        assert listening.last_id == f"{rev}.0"
        assert (await fleet.admin.delete("/api/entries/here")).status_code == 204
        name, data = await listening.next()
        assert (data["entry_id"], data["rev"], data["deleted"]) == ("here", rev + 1, True)


async def test_an_entry_that_leaves_the_environment_is_deleted_there(
    fleet: Server, agent: Agent, environment: str
) -> None:
    other = await fleet.environment("other")
    await write(fleet, "wanderer", environment)
    there = await register(fleet, await fleet.app(other), "two")
    async with Listener(agent) as here, Listener(there) as elsewhere:
        rev = await write(fleet, "wanderer", other)
        assert ((await here.next())[1]["deleted"], (await elsewhere.next())[1]["deleted"]) == (True, False)
        assert here.last_id == elsewhere.last_id == f"{rev}.0"
        await write(fleet, "wanderer", environment)
        assert ((await here.next())[1]["deleted"], (await elsewhere.next())[1]["deleted"]) == (False, True)
    nobody = await fleet.environment("nobody listens here")
    async with Listener(agent) as here, asyncio.timeout(5):
        await write(fleet, "wanderer", nobody)
        assert (await here.next())[1]["deleted"]


async def test_what_a_stream_was_told_as_it_began_is_not_told_again(
    fleet: Server, agent: Agent, environment: str
) -> None:
    for name in ("a", "b"):
        await write(fleet, name, environment)
    async with Listener(agent, "0.0") as listening:
        fleet.fleet.hub._rev = 0  # as if this process had not read these changes before the stream caught up with them
        await write(fleet, "c", environment)
        assert [(await listening.next())[1]["entry_id"] for _ in range(3)] == ["a", "b", "c"]
        assert listening.waiting() == []


async def test_last_event_id_goes_on_with_nothing_lost_and_nothing_twice(
    fleet: Server, agent: Agent, environment: str
) -> None:
    async with Listener(agent) as listening:
        await write(fleet, "a", environment)
        await command(fleet, agent, "one")
        await listening.next()
        await listening.next()
        at = listening.last_id
    await write(fleet, "b", environment)
    await write(fleet, "a", environment)
    await command(fleet, agent, "two")
    async with Listener(agent, at) as listening:
        assert [(await listening.next())[1]["entry_id"] for _ in range(2)] == ["b", "a"]
        assert (await listening.next())[1]["type"] == "two"
        await write(fleet, "c", environment)
        assert (await listening.next())[1]["entry_id"] == "c"
    async with Listener(agent, listening.last_id) as listening:
        await write(fleet, "d", environment)
        assert (await listening.next())[1]["entry_id"] == "d"
        assert listening.waiting() == []


async def test_the_place_is_known_before_the_first_event(fleet: Server, agent: Agent, environment: str) -> None:
    async with Listener(agent) as listening:
        at = listening.last_id
    await write(fleet, "while-away", environment)
    async with Listener(agent, at) as listening:
        assert (await listening.next())[1]["entry_id"] == "while-away"


async def test_nothing_is_lost_while_streams_come_and_go_under_writes(
    fleet: Server, agent: Agent, environment: str
) -> None:
    written: list[int] = []

    async def keep_writing() -> None:
        for number in range(60):
            written.append(await write(fleet, f"entry-{number}", environment))

    seen: list[int] = []
    async with Listener(agent) as listening:
        at = listening.last_id
    writing = asyncio.create_task(keep_writing())
    while len(seen) < 60:
        async with Listener(agent, at) as listening:
            seen += [(await listening.next())[1]["rev"]]
            at = listening.ids[1]
    await writing
    assert seen == written


@pytest.mark.parametrize("last", ["nonsense", "99.0", "0.7", "1.-1", "9" * 30 + ".0", "٣.0"])
async def test_an_unknown_place_is_a_resync(fleet: Server, agent: Agent, last: str) -> None:
    await command(fleet, agent, "waits")
    listening = Listener(agent)
    listening._sent.append((b"last-event-id", last.encode()))
    async with listening:
        assert await listening.next() == ("resync", {"reason": "unknown"})
        assert (await listening.next())[1]["type"] == "waits"


async def test_the_place_moves_on_while_an_agent_hears_nothing(fleet: Server, agent: Agent, environment: str) -> None:
    fleet.fleet.hub.keep_alive = 0.2
    other = await fleet.environment("other")
    async with Listener(agent) as listening, asyncio.timeout(20):
        rev = await write(fleet, "elsewhere", other)
        await listening.reaches(f"{rev}.0")
        assert listening.waiting() == []
    here = await write(fleet, "here", environment)
    async with Listener(agent, listening.last_id) as listening:
        assert (await listening.next())[1]["rev"] == here
        assert listening.waiting() == []


async def test_what_one_agent_has_missed_costs_others_nothing(
    fleet: Server, agent: Agent, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "MOST", 10)
    busy = await fleet.environment("busy")
    app = await fleet.app(busy)
    away, back, near = [await register(fleet, app, name) for name in ("away", "back", "near")]
    rev = await write(fleet, "quiet", environment)
    for number in range(40):
        last = await write(fleet, f"entry-{number}", busy)
    rows: list[int] = []
    fetch = fleet.host.db.fetch_all

    async def counted(query: Any, *more: Any) -> Any:
        found = await fetch(query, *more)
        if "entry_departures" in str(query):
            rows.append(len(found))
        return found

    monkeypatch.setattr(fleet.host.db, "fetch_all", counted)
    listening = [
        Listener(agent, f"{rev - 1}.0"),
        Listener(away, f"{rev}.0"),
        Listener(back, f"{last - 10}.0"),
        Listener(near, f"{last - 1}.0"),
    ]
    await asyncio.gather(*(one.__aenter__() for one in listening))
    assert (await listening[0].next())[1]["entry_id"] == "quiet"
    assert await listening[1].next() == ("resync", {"reason": "too_old"})
    assert [(await listening[2].next())[1]["rev"] for _ in range(10)] == list(range(last - 9, last + 1))
    assert (await listening[3].next())[1]["rev"] == last
    assert [one.waiting() for one in listening] == [[], [], [], []]
    assert max(rows) <= 12
    for one in listening:
        await one.__aexit__()


async def test_too_much_missed_is_a_resync(
    fleet: Server, agent: Agent, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "MOST", 3)
    async with Listener(agent) as listening:
        at = listening.last_id
    for number in range(4):
        rev = await write(fleet, f"entry-{number}", environment)
    async with Listener(agent, at) as listening:
        assert await listening.next() == ("resync", {"reason": "too_old"})
        assert listening.last_id == f"{rev}.0"
        await write(fleet, "new", environment)
        assert (await listening.next())[1]["entry_id"] == "new"


async def test_a_change_wakes_no_stream_of_another_environment(fleet: Server, environment: str) -> None:
    other = await fleet.environment("other")
    here, there = await fleet.app(environment), await fleet.app(other)
    mine = [await register(fleet, here, f"mine-{number}") for number in range(3)]
    others = [await register(fleet, there, f"other-{number}") for number in range(3)]
    listening = [Listener(agent) for agent in mine + others]
    for one in listening:
        await one.__aenter__()
    began = {stream.agent_id: stream.wakes for stream in fleet.fleet.hub.streams}
    for number in range(5):
        await write(fleet, f"entry-{number}", environment)
        for one in listening[:3]:
            await one.next()
    woken = {stream.agent_id: stream.wakes - began[stream.agent_id] for stream in fleet.fleet.hub.streams}
    assert [woken[agent.id] for agent in mine] == [5, 5, 5]
    assert [woken[agent.id] for agent in others] == [0, 0, 0]
    for one in listening:
        await one.__aexit__()
    assert fleet.fleet.hub.streams == frozenset()


async def test_a_new_stream_ends_the_older_one(fleet: Server, agent: Agent) -> None:
    async with Listener(agent) as older, Listener(agent) as newer:
        assert await older.ended() == []
        await command(fleet, agent, "stop")
        assert (await newer.next())[0] == "command"


async def test_a_revoked_token_hears_nothing_more(fleet: Server, agent: Agent, environment: str) -> None:
    tokens = (await fleet.get("admin/tokens"))["tokens"]
    mine = next(token["id"] for token in tokens if token["agent_id"] == agent.id)
    async with Listener(agent) as listening:
        await fleet.delete(f"admin/tokens/{mine}")
        await write(fleet, "secret", environment)
        assert await listening.ended() == []


async def test_a_revoked_token_ends_a_silent_stream_too(fleet: Server, agent: Agent) -> None:
    tokens = (await fleet.get("admin/tokens"))["tokens"]
    mine = next(token["id"] for token in tokens if token["agent_id"] == agent.id)
    fleet.fleet.hub.keep_alive = 0.2
    async with Listener(agent) as listening:
        began = asyncio.get_running_loop().time()
        await fleet.delete(f"admin/tokens/{mine}")
        assert await listening.ended() == []
        assert asyncio.get_running_loop().time() - began < 5


async def test_registering_again_ends_the_stream_of_the_old_token(fleet: Server, agent: Agent) -> None:
    async with Listener(agent) as listening:
        await register(fleet, (await fleet.get("apps"))["apps"][0]["id"], "one", expect=200)
        assert await listening.ended() == []


async def test_a_deleted_agent_hears_nothing_more(fleet: Server, agent: Agent) -> None:
    async with Listener(agent) as listening:
        await fleet.delete(f"agents/{agent.id}")
        assert await listening.ended() == []


async def test_who_loses_the_seat_loses_the_stream(fleet: Server, agent: Agent) -> None:
    async with Listener(agent) as listening:
        fleet.clock.now += 4 * INTERVAL
        await sweep_stale(fleet.fleet)
        assert await listening.ended() == []
    assert (await agent.client.get(f"{agent.path}/events")).json()["code"] == "agent_not_live"


async def test_a_client_that_hangs_up_is_forgotten(fleet: Server, agent: Agent) -> None:
    async with Listener(agent):
        assert len(fleet.fleet.hub.streams) == 1
    assert fleet.fleet.hub.streams == frozenset()


async def test_a_client_that_does_not_read_is_cut_off_and_holds_nobody_up(
    fleet: Server, environment: str, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clavitor_fleet.agents.stream.MAX_WAITING", 2000)
    other = await register(fleet, (await fleet.get("apps"))["apps"][0]["id"], "two")
    async with Listener(agent) as stuck, Listener(other) as reader:
        at = stuck.last_id
        stuck.reading.clear()
        for number in range(40):
            await write(fleet, f"entry-{number}", environment)
            await reader.next()
        assert [stream.agent_id for stream in fleet.fleet.hub.streams] == [other.id]
        stuck.reading.set()
        before = await stuck.ended()
    monkeypatch.undo()
    async with Listener(agent, stuck.ids[-1] if before else at) as back:
        rest = [await back.next() for _ in range(40 - len(before))]
    assert [data["entry_id"] for _, data in before + rest] == [f"entry-{number}" for number in range(40)]


async def test_many_large_commands_wait_in_the_database(fleet: Server, agent: Agent) -> None:
    for number in range(12):
        await command(fleet, agent, f"c{number}", payload={"data": "x" * 60_000})
    held: list[int] = []
    async with Listener(agent) as listening:
        for number in range(12):
            held += [stream._bytes for stream in fleet.fleet.hub.streams]
            assert (await listening.next())[1]["type"] == f"c{number}"
    assert max(held, default=0) < 200_000


async def test_shutdown_ends_every_stream_at_once(fleet: Server, agent: Agent) -> None:
    async with Listener(agent) as listening:
        fleet.host.shutdown.set()
        began = asyncio.get_running_loop().time()
        assert await listening.ended() == []
        assert asyncio.get_running_loop().time() - began < 1
    async with Listener(agent) as late:
        assert await late.ended() == []


async def test_a_silent_stream_is_kept_alive(fleet: Server, agent: Agent) -> None:
    stream = EventStream(agent.id, "x", None, "x", "")
    stream.keep_alive(7)
    stream.keep_alive(7)
    assert await stream.next() == b"id: 7.0\n:\n\n"


async def test_streams_outlive_a_database_that_fails(
    fleet: Server, agent: Agent, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_host.api import StorageUnavailable
    from clavitor_host.vault.view import VaultView

    failed = asyncio.Event()
    async with Listener(agent) as listening:

        async def broken(self: VaultView) -> int:
            failed.set()
            raise StorageUnavailable("The disk is away.")

        with monkeypatch.context() as patched:
            patched.setattr(VaultView, "head_rev", broken)
            rev = await write(fleet, "a", environment)
            await asyncio.wait_for(failed.wait(), 10)
        assert (await listening.next())[1]["rev"] == rev
