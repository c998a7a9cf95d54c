"""Artifacts through REST: what is taken in, what comes out again, what is in use."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from clavitor_fleet.artifacts import chunks, space
from clavitor_fleet.artifacts.models import CHUNK
from clavitor_fleet.artifacts.service import get_artifact
from clavitor_fleet.artifacts.tables import artifact_chunks, artifact_uploads
from clavitor_fleet_testing.server import Server, servers
from clavitor_licensing_testing.server import FrozenClock

from clavitor_host.api import Problem, StorageUnavailable


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def send(
    fleet: Server, app: str, version: str, data: Any, *, sha: str | None = None, **headers: str
) -> httpx.Response:
    given = {"X-Content-SHA256": sha if sha is not None else sha256(data), **headers}
    path = f"/api/v1/apps/{app}/artifacts"
    return await fleet.admin.post(path, params={"version": version}, content=data, headers=given)


async def uploaded(fleet: Server, app: str, version: str, data: bytes = b"jar") -> str:
    """Upload an artifact, later than any before; return its id."""
    fleet.clock.now += 1
    reply = await send(fleet, app, version, data)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


async def place(fleet: Server, keep: int = 100) -> str:
    return await fleet.app(await fleet.environment(jar_retention_count=keep))


async def versions(fleet: Server, app: str) -> list[str]:
    return [one["version"] for one in (await fleet.get(f"apps/{app}/artifacts"))["artifacts"]]


async def kept(fleet: Server) -> tuple[int, int]:
    """How many chunks and unfinished uploads the database has."""
    count = [await fleet.host.db.fetch_val(sa.select(sa.func.count()).select_from(table)) for table in TABLES]
    return count[0], count[1]


TABLES = (artifact_chunks, artifact_uploads)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1])
async def test_the_bytes_come_back_as_they_were_sent(fleet: Server, size: int) -> None:
    app = await place(fleet)
    data = os.urandom(size)
    reply = await send(fleet, app, "1.0", data)
    assert reply.status_code == 201, reply.text
    made = reply.json()
    assert reply.headers["Location"] == f"/api/v1/artifacts/{made['id']}"
    assert (made["app_id"], made["version"], made["sha256"], made["size"]) == (app, "1.0", sha256(data), size)
    assert await fleet.get(f"artifacts/{made['id']}") == made
    assert (await fleet.get(f"apps/{app}/artifacts"))["artifacts"] == [made]
    got = await fleet.admin.get(f"/api/v1/artifacts/{made['id']}/content")
    assert (got.status_code, got.content) == (200, data)
    assert (got.headers["ETag"], got.headers["Content-Length"]) == (f'"{sha256(data)}"', str(size))
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert await kept(fleet) == (-(-size // CHUNK), 0)
    row = (await fleet.audit(action="create_artifact"))[0]
    assert row["payload"]["artifact_id"] == made["id"]


async def test_bytes_that_the_client_has_are_not_sent_again(fleet: Server) -> None:
    artifact = await uploaded(fleet, await place(fleet), "1.0")
    etag = f'"{sha256(b"jar")}"'
    reply = await fleet.admin.get(f"/api/v1/artifacts/{artifact}/content", headers={"If-None-Match": f'"x", {etag}'})
    assert (reply.status_code, reply.content, reply.headers["ETag"]) == (304, b"", etag)


async def test_a_wrong_hash_is_a_422_and_nothing_is_kept(fleet: Server) -> None:
    app = await place(fleet)
    reply = await send(fleet, app, "1.0", b"x" * (CHUNK + 5), sha=sha256(b"other"))
    assert (reply.status_code, reply.json()["code"]) == (422, "hash_mismatch")
    assert reply.json()["sha256"] == sha256(b"x" * (CHUNK + 5))
    assert await versions(fleet, app) == []
    assert await kept(fleet) == (0, 0)
    assert (await send(fleet, app, "1.0", b"right")).status_code == 201


async def test_less_than_announced_is_a_400_and_nothing_is_kept(fleet: Server) -> None:
    app = await place(fleet)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * CHUNK
        yield b"y"

    whole = sha256(b"x" * CHUNK + b"y")
    reply = await send(fleet, app, "1.0", pieces(), sha=whole, **{"Content-Length": str(CHUNK + 2)})
    assert reply.status_code == 400
    assert await kept(fleet) == (0, 0)
    assert await versions(fleet, app) == []
    assert (await send(fleet, app, "1.0", pieces(), sha=whole)).status_code == 201


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ({}, {"X-Content-SHA256": sha256(b"")}, "version"),
        ({"version": "a b"}, {"X-Content-SHA256": sha256(b"")}, "version"),
        ({"version": "v" * 129}, {"X-Content-SHA256": sha256(b"")}, "version"),
        ({"version": "1"}, {}, "X-Content-SHA256"),
        ({"version": "1"}, {"X-Content-SHA256": "abc"}, "X-Content-SHA256"),
    ],
)
async def test_an_upload_says_what_it_is(
    fleet: Server, query: dict[str, str], headers: dict[str, str], field: str
) -> None:
    path = f"/api/v1/apps/{await place(fleet)}/artifacts"
    reply = await fleet.admin.post(path, params=query, content=b"", headers=headers)
    assert (reply.status_code, reply.json()["field"]) == (400, field)


async def test_a_version_is_uploaded_once(fleet: Server) -> None:
    app = await place(fleet)
    await uploaded(fleet, app, "1.0")
    reply = await send(fleet, app, "1.0", b"another")
    assert (reply.status_code, reply.json()["code"]) == (409, "artifact_exists")
    assert reply.json()["field"] == "version"
    assert await kept(fleet) == (1, 0)


async def test_of_two_uploads_of_a_version_at_once_one_is_kept(fleet: Server) -> None:
    app = await place(fleet)
    replies = await asyncio.gather(*(send(fleet, app, "1.0", b"n" * CHUNK + bytes([n])) for n in range(4)))
    assert sorted(reply.status_code for reply in replies) == [201, 409, 409, 409]
    assert await kept(fleet) == (2, 0)


async def test_an_app_that_is_deleted_during_an_upload_gets_none(fleet: Server) -> None:
    app = await place(fleet)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * CHUNK
        await fleet.delete(f"apps/{app}")
        yield b"y"

    reply = await send(fleet, app, "1.0", pieces(), sha=sha256(b"x" * CHUNK + b"y"))
    assert (reply.status_code, reply.json()["code"]) == (404, "app_not_found")
    assert await kept(fleet) == (0, 0)


async def test_the_bytes_of_a_deleted_artifact_go_with_the_next_sweep(fleet: Server) -> None:
    app = await place(fleet)
    gone = await uploaded(fleet, app, "1.0", b"x" * (chunks.BATCH + 2) * CHUNK)
    stays = await uploaded(fleet, app, "2.0")
    await fleet.delete(f"artifacts/{gone}")
    await fleet.get(f"artifacts/{gone}", expect=404)
    assert (await fleet.admin.get(f"/api/v1/artifacts/{gone}/content")).status_code == 404
    await chunks.sweep(fleet.host)
    assert await kept(fleet) == (1, 0)
    assert (await fleet.admin.get(f"/api/v1/artifacts/{stays}/content")).content == b"jar"
    assert (await fleet.audit(action="delete_artifact"))[0]["payload"]["version"] == "1.0"
    await uploaded(fleet, app, "1.0", b"again")


async def test_an_upload_whose_process_ended_is_deleted_when_it_has_stood_still(fleet: Server) -> None:
    await chunks.begin(fleet.host, "abandoned")
    await chunks.add_chunk(fleet.host, "abandoned", 0, b"x")
    await chunks.sweep(fleet.host)
    assert await kept(fleet) == (1, 1)
    fleet.clock.now += chunks.IDLE - 1
    await chunks.add_chunk(fleet.host, "abandoned", 1, b"x")
    fleet.clock.now += chunks.IDLE - 1
    await chunks.sweep(fleet.host)
    assert await kept(fleet) == (2, 1)
    fleet.clock.now += 2
    await chunks.sweep(fleet.host)
    assert await kept(fleet) == (0, 0)


async def test_an_upload_that_was_given_up_is_told_so(fleet: Server) -> None:
    await chunks.begin(fleet.host, "slow")
    await chunks.add_chunk(fleet.host, "slow", 0, b"x")
    fleet.clock.now += chunks.IDLE + 1
    await chunks.sweep(fleet.host)
    with pytest.raises(Problem, match="stood still"):
        await chunks.add_chunk(fleet.host, "slow", 1, b"x")
    async with fleet.host.db.transaction() as tx:
        with pytest.raises(Problem, match="stood still"):
            await chunks.complete(tx, "slow")
    assert await kept(fleet) == (0, 0)


async def test_an_artifact_in_use_is_not_deleted_and_the_deployments_are_named(fleet: Server) -> None:
    app = await place(fleet)
    artifact = await uploaded(fleet, app, "1.0")
    body = {"app_id": app, "artifact_id": artifact, "replicas": 1, "cpu_millis": 1, "memory_mb": 1}
    deployment = await fleet.post("deployments", body)
    refused = await fleet.delete(f"artifacts/{artifact}", expect=409)
    assert (refused["code"], refused["used_by"]) == ("artifact_in_use", {"deployments": 1})
    assert refused["deployments"] == [deployment["id"]]
    await fleet.post(f"deployments/{deployment['id']}/stop", expect=200)
    await fleet.delete(f"artifacts/{artifact}")
    assert (await fleet.get(f"deployments/{deployment['id']}"))["artifact_id"] == artifact


async def test_an_app_with_artifacts_is_not_deleted(fleet: Server) -> None:
    app = await place(fleet)
    artifact = await uploaded(fleet, app, "1.0")
    refused = await fleet.delete(f"apps/{app}", expect=409)
    assert refused["used_by"] == {"artifacts": 1}
    await fleet.delete(f"artifacts/{artifact}")
    await fleet.delete(f"apps/{app}")


async def test_a_token_of_an_environment_reaches_the_artifacts_of_no_other(fleet: Server) -> None:
    mine, other = await fleet.environment("mine"), await fleet.environment("other")
    app = await fleet.app(other)
    artifact = await uploaded(fleet, app, "1.0")
    client = await fleet.harness.client_for("OPERATOR", environment_id=mine)
    for method, path in (
        ("GET", f"artifacts/{artifact}"),
        ("GET", f"artifacts/{artifact}/content"),
        ("DELETE", f"artifacts/{artifact}"),
        ("GET", f"apps/{app}/artifacts"),
        ("POST", f"apps/{app}/artifacts"),
    ):
        assert (await client.request(method, f"/api/v1/{path}")).status_code == 404, path
    viewer = await fleet.harness.client_for("VIEWER")
    assert (await viewer.get(f"/api/v1/artifacts/{artifact}/content")).status_code == 200
    assert (await viewer.post(f"/api/v1/apps/{app}/artifacts")).status_code == 403
    assert (await viewer.delete(f"/api/v1/artifacts/{artifact}")).status_code == 403


async def test_a_database_without_room_is_a_507_and_nothing_is_kept(
    fleet: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fleet.host.db.dialect != "sqlite":
        pytest.skip("PostgreSQL's disk cannot be seen")
    app = await place(fleet)
    left = iter([100 * CHUNK, 100 * CHUNK, 100 * CHUNK, 0, 0, 0])
    monkeypatch.setattr(space, "free_bytes", lambda url: space.RESERVE + next(left))
    reply = await send(fleet, app, "1.0", b"x" * 5 * CHUNK)
    assert (reply.status_code, reply.json()["code"]) == (507, "insufficient_storage")
    assert await kept(fleet) == (0, 0)
    assert await versions(fleet, app) == []


async def test_pages_of_the_file_that_are_free_are_room(fleet: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if fleet.host.db.dialect != "sqlite":
        pytest.skip("PostgreSQL's disk cannot be seen")
    app = await place(fleet)
    artifact = await uploaded(fleet, app, "1.0", b"x" * 20 * CHUNK)
    monkeypatch.setattr(space, "free_bytes", lambda url: space.RESERVE)
    assert (await send(fleet, app, "2.0", b"x")).status_code == 507
    await fleet.delete(f"artifacts/{artifact}")
    await chunks.sweep(fleet.host)
    assert (await send(fleet, app, "2.0", b"x")).status_code == 201


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_disk_that_is_full_all_the_same_is_a_507_and_nothing_is_kept_once_it_has_room(
    small_disk: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda url: 10 * space.RESERVE)
    async with servers(small_disk, f"sqlite:///{small_disk}/vault.db", clock) as start:
        fleet = await start()
        app = await place(fleet)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 20 * CHUNK)
        reply = await send(fleet, app, "1.0", b"x" * 40 * CHUNK)
        assert (reply.status_code, reply.json()["code"]) == (507, "insufficient_storage")
        assert await versions(fleet, app) == []
        ballast.unlink()
        clock.now += chunks.IDLE + 1
        await chunks.sweep(fleet.host)
        assert await kept(fleet) == (0, 0)
        await uploaded(fleet, app, "1.0")


async def test_an_artifact_that_is_deleted_while_it_is_read_is_not_taken_for_whole(fleet: Server) -> None:
    app = await place(fleet)
    artifact = await uploaded(fleet, app, "1.0", b"x" * 3 * CHUNK)
    pieces = chunks.read(fleet.host, (await get_artifact(fleet.host, artifact)).thing)
    assert await anext(pieces) == b"x" * CHUNK
    await fleet.delete(f"artifacts/{artifact}")
    await chunks.sweep(fleet.host)
    with pytest.raises(StorageUnavailable, match="deleted while it was read"):
        await anext(pieces)


async def test_the_bytes_of_all_artifacts_are_a_metric(fleet: Server) -> None:
    async def shown() -> str:
        text = (await fleet.host.metrics.render()).decode()
        return next(line for line in text.splitlines() if line.startswith("clavitor_fleet_artifact_bytes "))

    assert await shown() == "clavitor_fleet_artifact_bytes 0.0"
    app = await place(fleet)
    for version, size in (("1", 10), ("2", 300)):
        await uploaded(fleet, app, version, b"x" * size)
    assert await shown() == "clavitor_fleet_artifact_bytes 310.0"
