"""Of an app's artifacts only the newest are kept: as many as its environment says and the license allows."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
import sqlalchemy as sa
from clavitor_fleet.artifacts import chunks
from clavitor_fleet.artifacts.service import prune
from clavitor_fleet.artifacts.tables import artifact_chunks
from clavitor_fleet_testing.server import Server


async def upload(fleet: Server, app: str, version: str) -> str:
    fleet.clock.now += 1
    headers = {"X-Content-SHA256": hashlib.sha256(b"jar").hexdigest()}
    path = f"/api/v1/apps/{app}/artifacts"
    reply = await fleet.admin.post(path, params={"version": version}, content=b"jar", headers=headers)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


async def versions(fleet: Server, app: str) -> list[str]:
    return [one["version"] for one in (await fleet.get(f"apps/{app}/artifacts"))["artifacts"]]


async def deploy(fleet: Server, app: str, artifact: str) -> str:
    body = {"app_id": app, "artifact_id": artifact, "replicas": 1, "cpu_millis": 1, "memory_mb": 1}
    return str((await fleet.post("deployments", body))["id"])


async def test_an_upload_makes_room_among_the_older_ones_of_its_app(fleet: Server) -> None:
    environment = await fleet.environment(jar_retention_count=2)
    app, other = await fleet.app(environment, "shop"), await fleet.app(environment, "other")
    await upload(fleet, other, "0")
    for version in ("1", "2", "3"):
        await upload(fleet, app, version)
    assert await versions(fleet, app) == ["2", "3"]
    assert await versions(fleet, other) == ["0"]
    row = (await fleet.audit(action="prune_artifacts"))[0]
    assert row["actor"] == "system"
    assert [(one["app_id"], one["version"]) for one in row["payload"]["artifacts"]] == [(app, "1")]
    await chunks.sweep(fleet.host)
    assert await fleet.host.db.fetch_val(sa.select(sa.func.count()).select_from(artifact_chunks)) == 3


async def test_what_a_deployment_uses_stays_until_it_has_ended(fleet: Server) -> None:
    app = await fleet.app(await fleet.environment(jar_retention_count=1))
    deployment = await deploy(fleet, app, await upload(fleet, app, "1"))
    await upload(fleet, app, "2")
    await upload(fleet, app, "3")
    assert await versions(fleet, app) == ["1", "3"]
    await fleet.post(f"deployments/{deployment}/stop", expect=200)
    await prune(fleet.host)
    assert await versions(fleet, app) == ["3"]


@pytest.mark.parametrize(("cap", "kept"), [(2, ["3", "4"]), (0, ["4"]), (9, ["2", "3", "4"])])
async def test_the_lesser_of_cap_and_configured_count_holds(
    fleet: Server, monkeypatch: pytest.MonkeyPatch, cap: int, kept: list[str]
) -> None:
    app = await fleet.app(await fleet.environment(jar_retention_count=4))
    for version in ("1", "2", "3", "4"):
        await upload(fleet, app, version)
    environment = (await fleet.get(f"apps/{app}"))["environment_id"]
    await fleet.put(f"admin/environments/{environment}/jar-retention", {"jar_retention_count": 3})

    async def effective_cap(limit: str) -> int | None:
        assert limit == "max_jar_retention_count"
        return cap

    monkeypatch.setattr(fleet.host, "effective_cap", effective_cap)
    await prune(fleet.host)
    assert await versions(fleet, app) == kept


async def test_only_the_apps_asked_for_are_pruned(fleet: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = await fleet.environment(jar_retention_count=2)
    first, second = await fleet.app(environment, "a"), await fleet.app(environment, "b")
    for app in (first, second):
        await upload(fleet, app, "1")
        await upload(fleet, app, "2")

    async def one(limit: str) -> int | None:
        return 1

    with monkeypatch.context() as patched:
        patched.setattr(fleet.host, "effective_cap", one)
        assert await prune(fleet.host, [first]) == 1
    assert (await versions(fleet, first), await versions(fleet, second)) == (["2"], ["1", "2"])


async def test_what_is_deployed_while_it_is_being_pruned_stays_whole(fleet: Server) -> None:
    environment = await fleet.environment(jar_retention_count=9)
    app = await fleet.app(environment)
    ids = [await upload(fleet, app, str(version)) for version in range(9)]
    await fleet.put(f"admin/environments/{environment}/jar-retention", {"jar_retention_count": 1})

    async def tried(artifact: str) -> bool:
        body = {"app_id": app, "artifact_id": artifact, "replicas": 1, "cpu_millis": 1, "memory_mb": 1}
        return (await fleet.admin.post("/api/v1/deployments", json=body)).status_code == 201

    *deployed, _, _ = await asyncio.gather(*map(tried, ids), prune(fleet.host), prune(fleet.host))
    await prune(fleet.host)
    left = {one["id"] for one in (await fleet.get(f"apps/{app}/artifacts"))["artifacts"]}
    assert {artifact for artifact, done in zip(ids, deployed, strict=True) if done} <= left
    assert ids[-1] in left


async def test_two_processes_that_prune_at_once_delete_each_artifact_once(fleet: Server) -> None:
    app = await fleet.app(await fleet.environment(jar_retention_count=9))
    for version in range(6):
        await upload(fleet, app, str(version))
    environment = (await fleet.get(f"apps/{app}"))["environment_id"]
    await fleet.put(f"admin/environments/{environment}/jar-retention", {"jar_retention_count": 1})
    await asyncio.gather(*(prune(fleet.host) for _ in range(4)))
    pruned = [
        one["version"] for row in await fleet.audit(action="prune_artifacts") for one in row["payload"]["artifacts"]
    ]
    assert sorted(pruned) == ["0", "1", "2", "3", "4"]
