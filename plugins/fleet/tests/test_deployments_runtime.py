"""A plugin that is a runtime is told what deployments want: after the commit, until it is done."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from clavitor_fleet.deployments import runtime as telling
from clavitor_fleet_testing.server import Server, Start

from clavitor_host.api import Deployment, Host, Plugin, hookimpl

PATIENCE = 20.0
Answer = Callable[[Deployment], Awaitable[Mapping[str, Any] | None]]


async def started(deployment: Deployment) -> Mapping[str, Any] | None:
    return {"desired": deployment.desired, "replicas": deployment.replicas}


class Runtime(Plugin):
    """Does what a test says, and keeps what it was told."""

    name = "runtime"
    version = "1.0"

    def __init__(self) -> None:
        self.told: list[Deployment] = []
        self.answer: Answer = started

    @hookimpl
    async def deployment_runtime(self, host: Host, deployment: Deployment) -> Mapping[str, Any] | None:
        assert host.db.current() is None
        self.told.append(deployment)
        return await self.answer(deployment)


def runtime_of(fleet: Server) -> Runtime:
    record = fleet.host.registry.get("runtime")
    assert record is not None
    assert isinstance(record.plugin, Runtime)
    return record.plugin


async def deploy(fleet: Server, replicas: int = 2) -> str:
    app = await fleet.app(await fleet.environment())
    body = {"app_id": app, "replicas": replicas, "cpu_millis": 250, "memory_mb": 64}
    made = await fleet.post("deployments", body)
    assert made["status"] == "PRE_FLIGHT"
    return str(made["id"])


async def reached(fleet: Server, deployment: str, **wanted: Any) -> dict[str, Any]:
    """Wait until a deployment is as wanted, and return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found: dict[str, Any] = await fleet.get(f"deployments/{deployment}")
            if all(found[name] == value for name, value in wanted.items()):
                return found
            await asyncio.sleep(0.02)


async def test_it_is_told_to_start_to_scale_and_to_stop(start: Start) -> None:
    fleet = await start(Runtime)
    deployment = await deploy(fleet)
    found = await reached(fleet, deployment, status="STARTING")
    assert found["runtime"] == {"desired": "running", "replicas": 2}
    await fleet.put(f"deployments/{deployment}", {"replicas": 3})
    await reached(fleet, deployment, status="STARTING", runtime={"desired": "running", "replicas": 3})
    stopped = await fleet.post(f"deployments/{deployment}/stop", expect=200)
    assert stopped["status"] == "STOPPED"
    await reached(fleet, deployment, status="STOPPED", runtime={"desired": "stopped", "replicas": 3})
    told = runtime_of(fleet).told
    assert [(one.desired, one.replicas, one.cpu_millis, one.memory_mb) for one in told] == [
        ("running", 2, 250, 64),
        ("running", 3, 250, 64),
        ("stopped", 3, 250, 64),
    ]
    assert {one.id for one in told} == {deployment}
    await fleet.delete(f"deployments/{deployment}")


async def test_it_is_told_of_another_artifact(start: Start) -> None:
    fleet = await start(Runtime)
    deployment = await deploy(fleet)
    await reached(fleet, deployment, status="STARTING")
    app = (await fleet.get(f"deployments/{deployment}"))["app_id"]
    headers = {"X-Content-SHA256": hashlib.sha256(b"jar").hexdigest()}
    made = await fleet.post(f"apps/{app}/artifacts?version=2", content=b"jar", headers=headers)
    await fleet.put(f"deployments/{deployment}", {"artifact_id": made["id"], "replicas": 3})
    await reached(fleet, deployment, status="STARTING", runtime={"desired": "running", "replicas": 3})
    assert [one.artifact_id for one in runtime_of(fleet).told] == ["", made["id"]]


async def test_a_failed_deployment_is_never_started(start: Start) -> None:
    fleet = await start(Runtime)
    app = await fleet.app(await fleet.environment())
    failed = await fleet.post("deployments", {"app_id": app, "replicas": 1})
    assert failed["status"] == "FAILED"
    assert await telling.reconcile(fleet.host) is None
    assert runtime_of(fleet).told == []


async def test_one_that_keeps_failing_fails_the_deployment_and_is_told_to_clean_up(start: Start) -> None:
    fleet = await start(Runtime)

    async def broken(deployment: Deployment) -> Mapping[str, Any] | None:
        if deployment.desired == "running":
            raise RuntimeError("no capacity")
        return {"gone": True}

    runtime_of(fleet).answer = broken
    deployment = await deploy(fleet)
    for attempt in range(1, telling.START_TRIES):
        await _attempts(fleet, attempt)
        assert (await fleet.get(f"deployments/{deployment}"))["status"] == "PRE_FLIGHT"
        fleet.clock.now += 2**attempt
        await telling.reconcile(fleet.host)
    found = await reached(fleet, deployment, status="FAILED", runtime={"gone": True})
    assert found["failure"] == {"error": "runtime failed", "message": "RuntimeError: no capacity"}
    assert [one.desired for one in runtime_of(fleet).told] == [*["running"] * telling.START_TRIES, "stopped"]
    assert (await fleet.audit(action="fail_deployment"))[0]["payload"]["failure"] == found["failure"]


async def _attempts(fleet: Server, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if await fleet.host.db.fetch_val("SELECT max(attempts) FROM deployments") == count:
                return
            await asyncio.sleep(0.02)


async def test_one_that_does_not_stop_is_left_to_the_operator(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = await start(Runtime)
    deployment = await deploy(fleet)
    await reached(fleet, deployment, status="STARTING")
    alerts: list[str] = []

    async def alert_operator(type: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        alerts.append(f"{type} {message}")

    async def broken(deployment: Deployment) -> Mapping[str, Any] | None:
        raise RuntimeError("stuck")

    monkeypatch.setattr(fleet.host.edition, "alert_operator", alert_operator)
    runtime_of(fleet).answer = broken
    await fleet.post(f"deployments/{deployment}/stop", expect=200)
    await _attempts(fleet, 1)
    assert (await fleet.delete(f"deployments/{deployment}", expect=409))["code"] == "deployment_stopping"
    for _ in range(1, telling.STOP_TRIES):
        fleet.clock.now += telling.LONGEST_PAUSE
        await telling.reconcile(fleet.host)
    assert len(alerts) == 1
    assert alerts[0].startswith("deployment_not_stopped ")
    assert "stuck" in alerts[0]
    await fleet.delete(f"deployments/{deployment}")


async def test_what_is_asked_while_it_is_told_is_told_next(start: Start) -> None:
    fleet = await start(Runtime)
    inside, go = asyncio.Event(), asyncio.Event()

    async def slow(deployment: Deployment) -> Mapping[str, Any] | None:
        inside.set()
        await go.wait()
        return await started(deployment)

    runtime_of(fleet).answer = slow
    deployment = await deploy(fleet)
    await asyncio.wait_for(inside.wait(), PATIENCE)
    await fleet.post(f"deployments/{deployment}/stop", expect=200)
    go.set()
    await reached(fleet, deployment, status="STOPPED", runtime={"desired": "stopped", "replicas": 2})


async def test_what_a_process_could_not_tell_the_next_one_does(start: Start) -> None:
    first = await start(Runtime)
    inside = asyncio.Event()

    async def hang(deployment: Deployment) -> Mapping[str, Any] | None:
        inside.set()
        await asyncio.Event().wait()
        return None

    runtime_of(first).answer = hang
    deployment = await deploy(first)
    await asyncio.wait_for(inside.wait(), PATIENCE)
    second = await start(Runtime, stop=first)
    found = await reached(second, deployment, status="STARTING")
    assert found["runtime"] == {"desired": "running", "replicas": 2}


async def test_when_the_plugin_is_taken_away_nobody_waits_for_it(start: Start) -> None:
    first = await start(Runtime)

    async def broken(deployment: Deployment) -> Mapping[str, Any] | None:
        raise RuntimeError("down")

    runtime_of(first).answer = broken
    deployment, other = await deploy(first), None
    app = (await first.get(f"deployments/{deployment}"))["app_id"]
    body = {"app_id": app, "replicas": 2, "cpu_millis": 250, "memory_mb": 64}
    other = (await first.post("deployments", body))["id"]
    for one in (deployment, other):
        await first.post(f"deployments/{one}/stop", expect=200)
    assert (await first.delete(f"deployments/{deployment}", expect=409))["code"] == "deployment_stopping"
    second = await start(stop=first)
    await second.delete(f"deployments/{deployment}")
    await second.delete(f"apps/{app}")
    await second.get(f"deployments/{other}", expect=404)


async def test_of_two_processes_one_tells(start: Start) -> None:
    first, second = await start(Runtime), await start(Runtime)
    deployment = await deploy(first)
    await reached(first, deployment, status="STARTING")
    await second.put(f"deployments/{deployment}", {"replicas": 5})
    await reached(first, deployment, runtime={"desired": "running", "replicas": 5})
    assert sorted(one.replicas for server in (first, second) for one in runtime_of(server).told) == [2, 5]


async def test_facts_that_cannot_be_kept_are_a_failure(quick_start: Start) -> None:
    fleet = await quick_start(Runtime)

    async def odd(deployment: Deployment) -> Mapping[str, Any] | None:
        return {"number": float("nan")}

    runtime_of(fleet).answer = odd
    await deploy(fleet)
    await _attempts(fleet, 1)


async def test_without_an_answer_agents_are_started_by_somebody_else(quick_start: Start) -> None:
    fleet = await quick_start(Runtime)

    async def silent(deployment: Deployment) -> Mapping[str, Any] | None:
        return None

    runtime_of(fleet).answer = silent
    found = await reached(fleet, await deploy(fleet), status="STARTING")
    assert found["runtime"] is None


async def test_deployments_that_hang_hold_up_no_other(quick_start: Start) -> None:
    fleet = await quick_start(Runtime)
    app = await fleet.app(await fleet.environment())
    body = {"app_id": app, "replicas": 1, "cpu_millis": 1, "memory_mb": 1}
    hanging: set[str] = set()
    inside, go = asyncio.Event(), asyncio.Event()

    async def some_hang(deployment: Deployment) -> Mapping[str, Any] | None:
        if deployment.replicas == 2:
            hanging.add(deployment.id)
            if len(hanging) == telling.AT_ONCE - 1:
                inside.set()
            await go.wait()
        return await started(deployment)

    runtime_of(fleet).answer = some_hang
    for _ in range(telling.AT_ONCE - 1):
        await fleet.post("deployments", {**body, "replicas": 2})
    await asyncio.wait_for(inside.wait(), PATIENCE)
    others = [(await fleet.post("deployments", body))["id"] for _ in range(3)]
    for other in others:
        await reached(fleet, other, status="STARTING")
    assert len(runtime_of(fleet).told) == telling.AT_ONCE + 2
    go.set()
    for one in hanging:
        await reached(fleet, one, status="STARTING")
