"""Agents attach to deployments by registering; a deployment runs once its replicas are LIVE at the same time."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from clavitor_fleet_testing.server import Server

STALE = 91
"""Seconds after which an agent has missed three heartbeats of 30 s."""


async def place(fleet: Server) -> str:
    return await fleet.app(await fleet.environment())


async def deploy(fleet: Server, app: str, replicas: int = 2) -> str:
    fleet.clock.now += 1
    body = {"app_id": app, "replicas": replicas, "cpu_millis": 1, "memory_mb": 1}
    return str((await fleet.post("deployments", body))["id"])


async def register(fleet: Server, app: str, instance: str, *, expect: int = 201, **more: Any) -> Any:
    body = {"app_id": app, "instance_id": instance, "version": "1.0", **more}
    return await fleet.post("agents/register", body, expect=expect)


async def deployment_of(fleet: Server, app: str, instance: str, **more: Any) -> str | None:
    found: str | None = (await register(fleet, app, instance, **more))["agent"]["deployment_id"]
    return found


async def state(fleet: Server, deployment: str) -> tuple[str, int]:
    found = await fleet.get(f"deployments/{deployment}")
    return found["status"], found["ready_replicas"]


async def test_it_runs_once_its_replicas_are_registered_and_stays_so(fleet: Server) -> None:
    app = await place(fleet)
    deployment = await deploy(fleet, app)
    assert await deployment_of(fleet, app, "a") == deployment
    assert await state(fleet, deployment) == ("STARTING", 1)
    assert await deployment_of(fleet, app, "b") == deployment
    assert await state(fleet, deployment) == ("RUNNING", 2)
    row = (await fleet.audit(action="run_deployments"))[0]
    assert (row["actor"], row["payload"]["deployment_ids"]) == ("system", [deployment])
    assert (await fleet.get(f"deployments/{deployment}"))["running_at"] == fleet.host.clock.now_us()
    fleet.clock.now += STALE
    assert await state(fleet, deployment) == ("RUNNING", 0)


async def test_agents_that_register_at_once_are_counted_one_after_the_other(fleet: Server) -> None:
    app = await place(fleet)
    deployment = await deploy(fleet, app, 6)
    await asyncio.gather(*(register(fleet, app, f"agent-{number}") for number in range(8)))
    assert await state(fleet, deployment) == ("RUNNING", 6)


async def test_an_agent_joins_the_newest_deployment_with_a_free_place(fleet: Server) -> None:
    app = await place(fleet)
    old, new = await deploy(fleet, app, 1), await deploy(fleet, app, 1)
    assert await deployment_of(fleet, app, "a") == new
    assert await deployment_of(fleet, app, "b") == old
    assert await deployment_of(fleet, app, "c") is None
    fleet.clock.now += STALE
    assert await deployment_of(fleet, app, "d") == new


async def test_an_agent_joins_the_deployment_it_names(fleet: Server) -> None:
    environment = await fleet.environment()
    app, other = await fleet.app(environment, "a"), await fleet.app(environment, "b")
    old, _ = await deploy(fleet, app), await deploy(fleet, app)
    foreign = await deploy(fleet, other)
    assert await deployment_of(fleet, app, "a", deployment_id=old) == old
    await fleet.post(f"deployments/{old}/stop", expect=200)
    for wrong, code in ((foreign, "unknown_reference"), ("none", "unknown_reference"), (old, "invalid_value")):
        refused = await register(fleet, app, "b", deployment_id=wrong, expect=422)
        assert (refused["code"], refused["field"]) == (code, "deployment_id")


async def test_an_agent_that_registers_again_stays_where_it_was_until_that_has_ended(fleet: Server) -> None:
    app = await place(fleet)
    old = await deploy(fleet, app)
    assert await deployment_of(fleet, app, "a") == old
    new = await deploy(fleet, app)
    assert (await register(fleet, app, "a", expect=200))["agent"]["deployment_id"] == old
    await fleet.post(f"deployments/{old}/stop", expect=200)
    assert (await register(fleet, app, "a", expect=200))["agent"]["deployment_id"] == new


async def test_one_scaled_down_to_the_agents_it_has_runs(fleet: Server) -> None:
    app = await place(fleet)
    deployment = await deploy(fleet, app, 3)
    await register(fleet, app, "a")
    scaled = await fleet.put(f"deployments/{deployment}", {"replicas": 1})
    assert (scaled["status"], scaled["ready_replicas"]) == ("RUNNING", 1)
    assert await fleet.get(f"deployments/{deployment}") == scaled


async def test_a_forgotten_deployment_lets_go_of_its_agents(fleet: Server) -> None:
    app = await place(fleet)
    deployment = await deploy(fleet, app)
    agent = (await register(fleet, app, "a"))["agent"]
    await fleet.post(f"deployments/{deployment}/stop", expect=200)
    await fleet.delete(f"deployments/{deployment}")
    assert (await fleet.get(f"agents/{agent['id']}"))["deployment_id"] is None


async def test_who_registers_is_told_what_to_run(fleet: Server) -> None:
    app = await place(fleet)
    assert (await register(fleet, app, "a"))["artifact"] is None
    hashed = hashlib.sha256(b"jar").hexdigest()
    headers = {"X-Content-SHA256": hashed}
    made = await fleet.post(f"apps/{app}/artifacts?version=1.0", content=b"jar", headers=headers)
    deployment = await deploy(fleet, app)
    assert (await register(fleet, app, "a", expect=200))["artifact"] is None  # the deployment does not say
    await fleet.put(f"deployments/{deployment}", {"artifact_id": made["id"]})
    for instance, expect in (("a", 200), ("b", 201)):
        told = await register(fleet, app, instance, expect=expect)
        assert told["artifact"] == {"id": made["id"], "version": "1.0", "sha256": hashed}
        client = await fleet.client(told["token"])
        path = f"/api/v1/agents/{told['agent']['id']}/artifacts/{told['artifact']['id']}/content"
        assert (await client.get(path)).content == b"jar"


@pytest.mark.parametrize("whose", ["its own", "another app's", "another agent's name"])
async def test_an_agent_reads_the_artifacts_of_its_app_and_no_others(fleet: Server, whose: str) -> None:
    environment = await fleet.environment()
    app, other = await fleet.app(environment, "a"), await fleet.app(environment, "b")
    headers = {"X-Content-SHA256": hashlib.sha256(b"jar").hexdigest()}
    artifacts = {
        one: (await fleet.post(f"apps/{one}/artifacts?version=1", content=b"jar", headers=headers))["id"]
        for one in (app, other)
    }
    me = await register(fleet, app, "a")
    second = await register(fleet, app, "b")
    client = await fleet.client(me["token"])
    agent = second["agent"]["id"] if whose == "another agent's name" else me["agent"]["id"]
    artifact = artifacts[other if whose == "another app's" else app]
    reply = await client.get(f"/api/v1/agents/{agent}/artifacts/{artifact}/content")
    expected = {"its own": (200, b"jar"), "another app's": (404, None), "another agent's name": (403, None)}
    assert reply.status_code == expected[whose][0], reply.text
    assert expected[whose][1] in (None, reply.content)
    assert (await client.get(f"/api/v1/artifacts/{artifact}/content")).status_code == 403
