"""The agent client against a real server process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from clavitor_fleet_testing.program import ENVIRON, PROGRAM

from clavitor_host.client import (
    Artifact,
    CapReached,
    ClientError,
    Command,
    Conflict,
    EntryChanged,
    Event,
    NotFound,
    Resync,
    ServerUnavailable,
    Unauthorized,
)
from clavitor_host.testing.postgres import PostgresServer, missing
from clavitor_host.testing.process import ServerProcess
from tests.client.conftest import Place

EXAMPLE = Path(__file__).parents[2] / "docs/examples/agent.py"
PATIENCE = 30.0


async def heard(events: AsyncIterator[Event]) -> Event:
    """Return the next event, in time."""
    return await asyncio.wait_for(anext(events), PATIENCE)


async def until(check: Any) -> Any:
    """Wait until an async check gives something true; return that."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await check()):  # noqa: ASYNC110 - only the far side knows
            await asyncio.sleep(0.02)
        return found


def named(folder: Path, pattern: str) -> list[str]:
    """Return the names of files."""
    return [path.name for path in folder.glob(pattern)]


async def test_an_agent_hears_reads_acknowledges_and_reports(place: Place) -> None:
    async with place.agent() as agent, aclosing(agent.events()) as events:
        assert await heard(events) == Resync("start")
        await place.write("key", "QUJD")
        changed = await heard(events)
        assert isinstance(changed, EntryChanged)
        assert (await agent.entry(changed.entry_id)).encrypted_data == "QUJD"
        assert [entry.entry_id async for entry in agent.entries()] == ["key"]
        with pytest.raises(NotFound):
            await agent.entry("other")
        id = await place.command(agent.id, "restart")
        command = await heard(events)
        assert isinstance(command, Command)
        assert (command.id, command.type) == (id, "restart")
        await agent.acknowledge(command, "FAILED", "no")
        with pytest.raises(Conflict):
            await agent.acknowledge(command)
        agent.report("logs", [{"level": "INFO", "message": "done"}] * 3)
        await agent.reports.flush()
        assert agent.reports.last_refusal is None
        rows = (await place.admin.get("/api/v1/telemetry/logs")).json()["rows"]
        assert [row["message"] for row in rows] == ["done"] * 3


async def test_an_agent_stays_live_and_leaves(place: Place) -> None:
    async with place.agent() as agent:
        path = f"/api/v1/agents/{agent.id}"
        first = (await place.admin.get(path)).json()["last_seen"]
        agent.status = "busy"

        async def beaten() -> bool:
            shown = (await place.admin.get(path)).json()
            return bool(shown["last_seen"] > first and shown["status"] == "busy")

        await until(beaten)
        await agent.leave()
        assert (await place.admin.get(path)).json()["state"] == "GONE"


async def test_the_server_may_die_and_nothing_is_lost_or_twice(place: Place) -> None:
    async with place.agent() as agent, aclosing(agent.events()) as events:
        assert await heard(events) == Resync("start")
        for round_ in range(3):
            await place.write(f"before-{round_}")
            await asyncio.to_thread(place.server.kill)
            await asyncio.to_thread(place.server.start)
            await place.write(f"after-{round_}")
            for name in ("before", "after"):
                changed = await heard(events)
                assert isinstance(changed, EntryChanged)
                assert changed.entry_id == f"{name}-{round_}"


async def test_an_agent_that_the_server_has_forgotten_registers_again(place: Place) -> None:
    async with place.agent() as agent, aclosing(agent.events()) as events:
        await heard(events)
        await place.admin.delete(f"/api/v1/agents/{agent.id}")
        next_event = asyncio.ensure_future(anext(events))

        async def back() -> bool:
            return bool((await place.admin.get(f"/api/v1/agents/{agent.id}")).json()["state"] == "LIVE")

        await until(back)
        await place.command(agent.id, "hello")
        event = await asyncio.wait_for(next_event, PATIENCE)
        assert isinstance(event, Command)


async def test_a_new_process_hears_of_what_a_dead_one_has_not_acknowledged_once(place: Place) -> None:
    """Where it goes on at the position of the dead one, and where it does not."""
    position = ""
    async with place.agent() as agent, aclosing(agent.events()) as events:
        await heard(events)
        sent = [await place.command(agent.id, type) for type in ("one", "two", "three")]
        commands = [event for event in [await heard(events) for _ in sent] if isinstance(event, Command)]
        await place.write("entry")
        await heard(events)
        position = agent.last_event_id  # as if it had died with all commands in its hands
        await agent.acknowledge(commands[2])
    for known in (position, ""):
        async with place.agent() as agent:
            agent.last_event_id = known
            before = await place.command(agent.id, f"while {'known' if known else 'new'}".replace(" ", "-"))
            sent.append(before)
            async with aclosing(agent.events()) as events:
                if not known:
                    assert await heard(events) == Resync("start")
                told = [await heard(events) for _ in range(3 if known else 4)]
                assert [event.id for event in told if isinstance(event, Command)] == [*sent[:2], *sent[3:]]
                if known:
                    assert isinstance(await heard(events), EntryChanged)
                last = await place.command(agent.id, "last")
                event = await heard(events)
                assert isinstance(event, Command)
                assert event.id == last
                await agent.acknowledge(event)


async def test_an_agent_fetches_what_its_deployment_runs(place: Place, tmp_path: Path) -> None:
    content = b"jar" * 100_000
    headers = {"X-Content-SHA256": sha256(content).hexdigest()}
    uploads = f"/api/v1/apps/{place.app_id}/artifacts"
    reply = await place.admin.post(uploads, params={"version": "1.0"}, content=content, headers=headers)
    artifact = reply.json()["id"]
    async with place.agent("before") as early:
        assert early.artifact is None
        with pytest.raises(ClientError, match="no artifact"):
            await early.artifact_content()
    size = {"replicas": 1, "cpu_millis": 1, "memory_mb": 1}
    deployment = {"app_id": place.app_id, "artifact_id": artifact, **size}
    assert (await place.admin.post("/api/v1/deployments", json=deployment)).status_code == 201
    async with place.agent() as agent:
        assert agent.artifact == Artifact(artifact, "1.0", sha256(content).hexdigest())
        assert await agent.artifact_content() == content
        await agent.save_artifact(tmp_path / "shop.jar")
        assert (tmp_path / "shop.jar").read_bytes() == content
        agent.artifact = agent.artifact._replace(sha256="0" * 64)
        with pytest.raises(ServerUnavailable, match="not the artifact's"):
            await agent.save_artifact(tmp_path / "other.jar")
        assert named(tmp_path, "*.jar*") == ["shop.jar"]
        await place.admin.delete(f"/api/v1/agents/{agent.id}")  # its token has ended
        agent.artifact = agent.artifact._replace(sha256=sha256(content).hexdigest())
        assert await agent.artifact_content() == content


async def test_the_client_says_what_happens_and_only_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="clavitor.client")

    def said() -> list[str]:
        return [
            f"{one.levelname} {one.getMessage().partition(':')[0]}"
            for one in caplog.records
            if one.name == "clavitor.client"
        ]

    async with place.agent() as agent, aclosing(agent.events()) as events:
        await heard(events)
        await asyncio.to_thread(place.server.kill)
        for _ in range(3):
            with pytest.raises(ServerUnavailable):
                await agent.heartbeat()
        await asyncio.to_thread(place.server.start)
        await agent.heartbeat()
    assert said() == [
        f"INFO Registered one as agent {agent.id}",
        "WARNING No answer from the server, it is tried again",
        "INFO The server answers again",
    ]


async def test_two_processes_with_one_instance_id_are_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with place.agent("twin") as one, place.agent("twin") as other:
        for _ in range(4):
            for agent in (one, other):
                await agent.heartbeat()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told
    assert set(told) == {
        "Another process uses this instance_id: twin. Each takes the other's token away; give each its own."
    }
    assert len(told) <= 2


async def test_errors_say_what_is_wrong(place: Place) -> None:
    place.token, token = "clv_agent_wrong", place.token
    with pytest.raises(Unauthorized):
        async with place.agent():
            pass
    place.token = token
    for number in range(5):
        async with place.agent(f"agent-{number}"):
            pass
    with pytest.raises(CapReached) as refused:
        async with place.agent("one-too-many"):
            pass
    assert refused.value.body["limit"] == "max_agents"


async def test_a_server_that_is_away_is_waited_for(place: Place) -> None:
    async with place.agent() as agent:
        await asyncio.to_thread(place.server.kill)
        with pytest.raises(ServerUnavailable):
            await agent.heartbeat()
        agent.report("logs", {"level": "INFO", "message": "kept"})
        await asyncio.sleep(0)
        await asyncio.to_thread(place.server.start)

        async def there() -> bool:
            return bool((await place.admin.get("/api/v1/telemetry/logs")).json()["rows"])

        await until(there)


async def test_streams_leave_at_once_when_the_server_stops(place: Place) -> None:
    async with place.agent() as agent, aclosing(agent.events()) as events:
        await heard(events)
        assert await asyncio.to_thread(place.server.terminate) < 2.0
        assert place.server.process.returncode == 0
        assert " ERROR " not in place.server.log


async def test_a_change_on_one_server_is_heard_from_the_other_within_a_second(tmp_path: Path, place: Place) -> None:
    """On SQLite the other process is another server on the same file; on PostgreSQL see below."""
    if missing():
        pytest.skip(str(missing()))
    async with PostgresServer.shared().database() as url:
        folders = (tmp_path / "first", tmp_path / "second")
        config = "[plugins.fleet]\nheartbeat_interval = 5\n"
        one, two = (
            ServerProcess(folder, database_url=url, program=PROGRAM, environ=ENVIRON, config=config)
            for folder in folders
        )
        with one, two:
            await _from_one_to_the_other(one, two)


async def _from_one_to_the_other(one: ServerProcess, two: ServerProcess) -> None:
    import httpx

    two.token = one.token
    async with httpx.AsyncClient(base_url=one.url, headers=one.authorization) as admin:

        async def post(path: str, body: Any) -> Any:
            return (await admin.post(f"/api/v1/{path}", json=body)).json()

        environment = (await post("environments", {"name": "production"}))["id"]
        app = (await post("apps", {"name": "shop", "environment_id": environment}))["id"]
        token = await post("admin/tokens", {"name": "nodes", "kind": "agent", "environment_id": environment})
        place = Place(one, admin, environment, app, token["token"])
        async with place.agent(server=two) as agent, aclosing(agent.events()) as events:
            await heard(events)
            slowest = 0.0
            for number in range(10):
                began = asyncio.get_running_loop().time()
                await place.write(f"entry-{number}")
                changed = await heard(events)
                assert isinstance(changed, EntryChanged)
                await place.command(agent.id, "work")
                assert isinstance(await heard(events), Command)
                slowest = max(slowest, asyncio.get_running_loop().time() - began)
            assert slowest < 1.0
            async with place.agent(server=one) as newer, aclosing(newer.events()) as others:
                await heard(others)  # the same agent on the other server: its old token has ended
                await place.command(newer.id, "again")
                told = [await heard(others) for _ in range(11)]
                assert {event.type for event in told if isinstance(event, Command)} == {"work", "again"}


async def test_the_example_runs(place: Place) -> None:
    await place.write("first")
    with subprocess.Popen(  # noqa: ASYNC220 - starting it is quick
        [sys.executable, str(EXAMPLE), place.server.url, place.token, place.app_id],
        stdout=subprocess.PIPE,
        text=True,
        cwd=EXAMPLE.parents[2],
        env={**place.server.environ, "PYTHONPATH": str(EXAMPLE.parents[2])},
    ) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        agent_id = line.removeprefix("registered as ").strip()
        path = f"/api/v1/agents/{agent_id}/commands"

        async def counted(expected: str) -> bool:
            await place.command(agent_id, "count")
            details = [one["detail"] for one in (await place.admin.get(path)).json()["commands"]]
            return expected in details

        await until(lambda: counted("1 secrets"))
        await place.write("second")
        await until(lambda: counted("2 secrets"))
        await place.command(agent_id, "dance")
        await place.command(agent_id, "stop")
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    commands = (await place.admin.get(path)).json()["commands"]
    assert [(one["type"], one["status"]) for one in commands[-2:]] == [("dance", "FAILED"), ("stop", "DONE")]
    assert (await place.admin.get(f"/api/v1/agents/{agent_id}")).json()["state"] == "GONE"
    metrics = (await place.admin.get("/api/v1/telemetry/metrics")).json()["rows"]
    assert {row["value"] for row in metrics} >= {1.0, 2.0}
