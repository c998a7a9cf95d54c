"""Deployments through REST: what they hold, how they end, and what the license says to them."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from clavitor_fleet.deployments.service import compute_in_use
from clavitor_fleet_testing.server import Server, Start

CPU, MEMORY, REPLICAS = "max_total_cpu_millis", "max_total_memory_mb", "max_total_replicas"
DEFAULT_TIER = {CPU: 2000, MEMORY: 2048, REPLICAS: 5}


async def place(fleet: Server) -> str:
    return await fleet.app(await fleet.environment())


def body(app: str, replicas: int = 1, cpu_millis: int | None = 100, memory_mb: int | None = 10) -> dict[str, Any]:
    return {"app_id": app, "replicas": replicas, "cpu_millis": cpu_millis, "memory_mb": memory_mb}


async def in_use(fleet: Server) -> dict[str, int]:
    async with fleet.host.db.transaction() as tx:
        return await compute_in_use(tx)


def refusal(limit: str, current: int) -> dict[str, Any]:
    cap = DEFAULT_TIER[limit]
    message = f"No license installed: default tier applies (cap = {cap} for {limit}). Install a license to raise this."
    base = {"error": "license cap reached", "limit": limit, "current": current, "cap": cap, "state": "ABSENT"}
    return {**base, "message": message}


async def test_a_deployment_waits_for_its_agents_is_scaled_stopped_and_forgotten(fleet: Server) -> None:
    app = await place(fleet)
    made = await fleet.post("deployments", body(app, 2))
    assert (made["status"], made["failure"], made["runtime"], made["ready_replicas"]) == ("STARTING", None, None, 0)
    path = f"deployments/{made['id']}"
    assert await fleet.get(path) == made
    assert (await fleet.get("deployments"))["deployments"] == [made]
    assert await in_use(fleet) == {CPU: 200, MEMORY: 20, REPLICAS: 2}
    scaled = await fleet.put(path, {"replicas": 3, "memory_mb": 5})
    assert (scaled["replicas"], scaled["cpu_millis"], scaled["memory_mb"]) == (3, 100, 5)
    assert await in_use(fleet) == {CPU: 300, MEMORY: 15, REPLICAS: 3}
    assert (await fleet.delete(path, expect=409))["code"] == "deployment_not_ended"
    stopped = await fleet.post(f"{path}/stop", expect=200)
    assert (stopped["status"], stopped["ended_at"]) == ("STOPPED", fleet.host.clock.now_us())
    assert await fleet.post(f"{path}/stop", expect=200) == stopped == await fleet.get(path)
    assert await in_use(fleet) == {CPU: 0, MEMORY: 0, REPLICAS: 0}
    assert (await fleet.put(path, {"replicas": 1}, expect=409))["code"] == "deployment_ended"
    await fleet.delete(path)
    await fleet.get(path, expect=404)
    rows = [row for row in await fleet.audit(category="FLEET") if "deployment" in row["action"]]
    assert [row["action"] for row in rows] == [
        "delete_deployment",
        "stop_deployment",
        "scale_deployment",
        "create_deployment",
    ]
    assert rows[2]["payload"]["was"] == {"replicas": 2, "memory_mb": 10}


@pytest.mark.parametrize(("given", "field"), [({"cpu_millis": None}, "cpu_millis"), ({"memory_mb": None}, "memory_mb")])
async def test_unset_compute_fails_the_deployment_and_holds_nothing(
    fleet: Server, given: dict[str, None], field: str
) -> None:
    made = await fleet.post("deployments", {**body(await place(fleet)), **given})
    assert (made["status"], made["failure"]["error"], made["failure"]["field"]) == ("FAILED", "compute not set", field)
    assert made["failure"]["fields"] == [field]
    assert field in made["failure"]["message"]
    assert made["ended_at"] is not None
    assert await in_use(fleet) == {CPU: 0, MEMORY: 0, REPLICAS: 0}
    rows = await fleet.audit(category="FLEET")
    assert [row["action"] for row in rows[:2]] == ["fail_deployment", "create_deployment"]
    assert rows[0]["payload"]["failure"] == made["failure"]
    await fleet.delete(f"deployments/{made['id']}")


async def test_all_that_is_not_set_is_named_at_once(fleet: Server) -> None:
    made = await fleet.post("deployments", {"app_id": await place(fleet), "replicas": 1})
    message = "The deployment does not say how much each replica needs: set cpu_millis and memory_mb."
    assert made["failure"]["fields"] == ["cpu_millis", "memory_mb"]
    assert made["failure"]["message"] == message


async def artifact(fleet: Server, app: str, version: str) -> str:
    headers = {"X-Content-SHA256": hashlib.sha256(b"jar").hexdigest()}
    made = await fleet.post(f"apps/{app}/artifacts?version={version}", content=b"jar", headers=headers)
    return str(made["id"])


async def test_a_deployment_may_run_another_artifact_of_its_app(fleet: Server) -> None:
    environment = await fleet.environment()
    app, other = await fleet.app(environment, "a"), await fleet.app(environment, "b")
    old, new, foreign = (
        await artifact(fleet, app, "1"),
        await artifact(fleet, app, "2"),
        await artifact(fleet, other, "1"),
    )
    made = await fleet.post("deployments", {**body(app), "artifact_id": old})
    path = f"deployments/{made['id']}"
    for wrong in (foreign, "nowhere"):
        refused = await fleet.put(path, {"artifact_id": wrong}, expect=422)
        assert (refused["code"], refused["field"]) == ("unknown_reference", "artifact_id")
    assert await fleet.get(path) == made
    changed = await fleet.put(path, {"artifact_id": new, "replicas": 2})
    assert (changed["artifact_id"], changed["replicas"], changed["status"]) == (new, 2, "STARTING")
    assert await fleet.put(path, {"artifact_id": new}) == changed
    (row,) = await fleet.audit(action="update_deployment")
    assert row["payload"]["was"] == {"artifact_id": old, "replicas": 1}
    assert row["payload"]["artifact_id"] == new
    await fleet.delete(f"artifacts/{old}")
    assert (await fleet.delete(f"artifacts/{new}", expect=409))["code"] == "artifact_in_use"


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 0},
        {"replicas": 10_001},
        {"replicas": None},
        {"replicas": 1.5},
        {"cpu_millis": 0},
        {"memory_mb": 0},
        {"app_id": 1},
    ],
)
async def test_what_is_no_size_is_a_400_that_names_the_field(fleet: Server, wrong: dict[str, Any]) -> None:
    refused = await fleet.post("deployments", {**body("app"), **wrong}, expect=400)
    assert refused["field"] == next(iter(wrong))


async def test_a_deployment_needs_an_app_and_an_artifact_of_it_that_are_there(fleet: Server) -> None:
    app = await place(fleet)
    for wrong, field in (({"app_id": "nowhere"}, "app_id"), ({"artifact_id": "none"}, "artifact_id")):
        refused = await fleet.post("deployments", {**body(app), **wrong}, expect=422)
        assert (refused["code"], refused["field"]) == ("unknown_reference", field)
    assert (await fleet.get("deployments"))["deployments"] == []


async def test_lists_are_narrowed_by_app_and_status(fleet: Server) -> None:
    environment = await fleet.environment()
    first, second = await fleet.app(environment, "a"), await fleet.app(environment, "b")
    one = await fleet.post("deployments", body(first))
    two = await fleet.post("deployments", body(second))
    await fleet.post(f"deployments/{two['id']}/stop", expect=200)

    async def listed(**query: Any) -> list[str]:
        return [found["id"] for found in (await fleet.get("deployments", **query))["deployments"]]

    assert await listed(app_id=first) == [one["id"]]
    assert await listed(status="STOPPED") == [two["id"]]
    assert await listed(app_id=first, status="STOPPED") == []
    assert (await fleet.get("deployments", status="GONE", expect=400))["field"] == "status"


async def test_a_token_of_an_environment_reaches_the_deployments_of_no_other(fleet: Server) -> None:
    mine, other = await fleet.environment("mine"), await fleet.environment("other")
    app = await fleet.app(other)
    path = f"/api/v1/deployments/{(await fleet.post('deployments', body(app)))['id']}"
    client = await fleet.harness.client_for("OPERATOR", environment_id=mine)
    assert (await client.get("/api/v1/deployments")).json()["deployments"] == []
    assert (await client.get(path)).status_code == 404
    assert (await client.put(path, json={"replicas": 2})).status_code == 404
    assert (await client.post(f"{path}/stop")).status_code == 404
    assert (await client.delete(path)).status_code == 404
    refused = await client.post("/api/v1/deployments", json=body(app))
    assert (refused.status_code, refused.json()["field"]) == (422, "app_id")
    viewer = await fleet.harness.client_for("VIEWER")
    assert (await viewer.get(path)).status_code == 200
    assert (await viewer.post(f"{path}/stop")).status_code == 403


async def test_an_app_is_deleted_once_its_deployments_have_ended(fleet: Server) -> None:
    app = await place(fleet)
    made = await fleet.post("deployments", body(app))
    assert (await fleet.delete(f"apps/{app}", expect=409))["used_by"] == {"deployments": 1}
    await fleet.post(f"deployments/{made['id']}/stop", expect=200)
    await fleet.delete(f"apps/{app}")
    await fleet.get(f"deployments/{made['id']}", expect=404)


async def test_one_who_scales_what_another_has_just_scaled_is_told_so(fleet: Server) -> None:
    made = await fleet.post("deployments", body(await place(fleet)))
    path = f"/api/v1/deployments/{made['id']}"
    replies = await asyncio.gather(*(fleet.admin.put(path, json={"replicas": size}) for size in (2, 3, 4, 5)))
    assert {reply.status_code for reply in replies} <= {200, 409}
    done = [reply.json()["replicas"] for reply in replies if reply.status_code == 200]
    assert (await fleet.get(f"deployments/{made['id']}"))["replicas"] in done


# --- caps (seed section 4.1)


@pytest.mark.parametrize(
    ("size", "limit", "current"),
    [
        ({"cpu_millis": 1901, "memory_mb": 1}, CPU, 100),
        ({"cpu_millis": 1, "memory_mb": 2039}, MEMORY, 10),
        ({"replicas": 5, "cpu_millis": 1, "memory_mb": 1}, REPLICAS, 1),
    ],
)
async def test_a_deployment_beyond_a_cap_fails_with_the_reason_and_holds_nothing(
    start: Start, size: dict[str, int], limit: str, current: int
) -> None:
    fleet = await start(licensing=True)
    app = await place(fleet)
    await fleet.post("deployments", body(app))
    made = await fleet.post("deployments", {**body(app), **size})
    assert (made["status"], made["failure"]) == ("FAILED", refusal(limit, current))
    assert await fleet.get(f"deployments/{made['id']}") == made
    assert await in_use(fleet) == {CPU: 100, MEMORY: 10, REPLICAS: 1}
    assert [row["payload"]["failure"] for row in await fleet.audit(action="fail_deployment")] == [made["failure"]]
    assert [row["payload"]["limit"] for row in await fleet.audit(action="cap_exceeded")] == [limit]


async def test_scaling_beyond_a_cap_is_refused_and_changes_nothing_while_reductions_pass(start: Start) -> None:
    fleet = await start(licensing=True)
    made = await fleet.post("deployments", body(await place(fleet), 2, 500))
    path = f"deployments/{made['id']}"
    refused = await fleet.put(path, {"replicas": 5}, expect=403)
    assert {name: refused[name] for name in refusal(CPU, 1000)} == refusal(CPU, 1000)
    assert await fleet.get(path) == made
    assert (await fleet.put(path, {"replicas": 4}))["replicas"] == 4
    assert (await fleet.put(path, {"replicas": 5, "cpu_millis": 400}))["cpu_millis"] == 400
    assert (await fleet.put(path, {"replicas": 1}))["replicas"] == 1


async def test_deployments_made_at_once_never_pass_a_cap(start: Start) -> None:
    first, second = await start(licensing=True), await start(licensing=True)
    app = await place(first)
    made = await asyncio.gather(
        *(server.post("deployments", body(app, 1, 1, 1)) for _ in range(6) for server in (first, second))
    )
    statuses = [one["status"] for one in made]
    assert (statuses.count("STARTING"), statuses.count("FAILED")) == (5, 7)
    assert (await in_use(first))[REPLICAS] == 5


async def test_sums_beyond_32_bits_are_right(fleet: Server) -> None:
    app = await place(fleet)
    for _ in range(2):
        await fleet.post("deployments", body(app, 10_000, 1_000_000, 16_777_216))
    assert await in_use(fleet) == {CPU: 20_000_000_000, MEMORY: 335_544_320_000, REPLICAS: 20_000}
