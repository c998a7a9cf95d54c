"""Readers of one environment hear of entries that leave it (vault.md section 1, `GET /api/changes`)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.vault.models import Write, WriteSet
from clavitor_host.vault.tables import entry_departures

BLOB = base64.b64encode(b"sealed").decode()
SECRET = base64.b64encode(b"not for blue").decode()
Clients = Callable[..., Awaitable[httpx.AsyncClient]]


async def put(client: httpx.AsyncClient, entry_id: str, environment_id: str | None, data: str = BLOB) -> int:
    body = {"encrypted_data": data, "environment_id": environment_id}
    reply = await client.put(f"/api/entries/{entry_id}", json=body)
    assert reply.status_code in (200, 201), reply.text
    return int(reply.headers["X-Clavitor-Rev"])


async def feed(client: httpx.AsyncClient, since: int = 0, query: str = "") -> list[dict[str, Any]]:
    reply = await client.get(f"/api/changes?since={since}{query}")
    assert reply.status_code == 200, reply.text
    changes: list[dict[str, Any]] = reply.json()["changes"]
    return changes


def short(changes: list[dict[str, Any]]) -> list[tuple[str, int, bool]]:
    return [(change["entry_id"], change["rev"], change["deleted"]) for change in changes]


@pytest.mark.parametrize("target", ["red", None])
async def test_an_entry_that_leaves_is_deleted_for_those_it_leaves(
    client_for: Clients, writer: httpx.AsyncClient, target: str | None
) -> None:
    blue = await client_for("VIEWER", environment_id="blue")
    red = await client_for("VIEWER", environment_id="red")
    before = await put(writer, "one", "blue")
    made = (await writer.get("/api/entries/one")).json()["created_at"]
    moved = await put(writer, "one", target, SECRET)
    (gone,) = await feed(blue, before, "&include=data")
    now = (await writer.get("/api/entries/one")).json()
    assert short([gone]) == [("one", moved, True)]
    assert gone["encrypted_data"] is None
    assert (gone["environment_id"], gone["created_at"], gone["updated_at"]) == ("blue", made, now["updated_at"])
    assert short(await feed(blue, before)) == [("one", moved, True)]
    assert await feed(blue, moved) == []
    assert short(await feed(red)) == ([("one", moved, False)] if target else [])
    assert short(await feed(writer)) == [("one", moved, False)]


async def test_a_write_that_moves_nothing_is_no_departure(client_for: Clients, writer: httpx.AsyncClient) -> None:
    blue = await client_for("OPERATOR", environment_id="blue")
    await put(writer, "one", "blue")
    again = await put(writer, "one", "blue")
    assert short(await feed(blue)) == [("one", again, False)]
    await writer.delete("/api/entries/one")
    await put(writer, "one", "blue")
    free = await put(writer, "two", None)
    here = await put(writer, "two", "blue")
    assert here == free + 1
    assert short(await feed(blue)) == [("one", free - 1, False), ("two", here, False)]


async def test_an_entry_that_came_back_is_there_once(client_for: Clients, writer: httpx.AsyncClient) -> None:
    blue = await client_for("VIEWER", environment_id="blue")
    red = await client_for("VIEWER", environment_id="red")
    await put(writer, "one", "blue")
    await put(writer, "one", "red")
    back = await put(writer, "one", "blue")
    assert short(await feed(blue)) == [("one", back, False)]
    assert short(await feed(red)) == [("one", back, True)]
    gone = int((await writer.delete("/api/entries/one")).headers["X-Clavitor-Rev"])
    assert short(await feed(blue)) == [("one", gone, True)]
    await put(writer, "one", "blue")
    away = await put(writer, "one", None)
    assert short(await feed(blue)) == [("one", away, True)], "the last departure counts, not the first"


@pytest.mark.parametrize("target", ["red", None])
async def test_a_deletion_is_not_lost_when_the_id_is_used_again_elsewhere(
    client_for: Clients, writer: httpx.AsyncClient, target: str | None
) -> None:
    blue = await client_for("VIEWER", environment_id="blue")
    seen = await put(writer, "one", "blue")
    await writer.delete("/api/entries/one")
    reused = await put(writer, "one", target)
    assert short(await feed(blue, seen)) == [("one", reused, True)]


async def test_every_environment_on_the_way_hears_of_it(client_for: Clients, writer: httpx.AsyncClient) -> None:
    moves = [
        {"operation": "put", "entry_id": "one", "encrypted_data": BLOB, "environment_id": environment}
        for environment in ("blue", "red", "blue", "green")
    ]
    reply = await writer.post("/api/entries/batch", json={"operations": moves})
    revs = [result["rev"] for result in reply.json()["results"]]
    for name, expected in (("blue", (revs[3], True)), ("red", (revs[2], True)), ("green", (revs[3], False))):
        reader = await client_for("VIEWER", environment_id=name)
        assert short(await feed(reader)) == [("one", *expected)]


async def test_a_refused_batch_leaves_no_departure(client_for: Clients, writer: httpx.AsyncClient) -> None:
    blue = await client_for("VIEWER", environment_id="blue")
    rev = await put(writer, "one", "blue")
    moves = [
        {"operation": "put", "entry_id": "one", "encrypted_data": BLOB, "environment_id": "red"},
        {"operation": "create", "entry_id": "one", "encrypted_data": BLOB},
    ]
    assert (await writer.post("/api/entries/batch", json={"operations": moves})).status_code == 409
    assert short(await feed(blue)) == [("one", rev, False)]


@pytest.mark.in_process
async def test_what_a_refused_set_moved_is_not_written_with_its_neighbours(host: Host) -> None:
    async def write(*writes: Write) -> None:
        await host.entries.write(WriteSet(writes, actor="me", source=""))

    def move(entry_id: str, environment_id: str) -> Write:
        return Write("put", entry_id, BLOB, environment_id, keep_environment=False)

    await write(move("one", "blue"), move("two", "blue"))
    refused, _ = await asyncio.gather(
        write(move("one", "red"), Write("create", "two", BLOB)), write(move("three", "red")), return_exceptions=True
    )
    assert isinstance(refused, Problem)
    assert await host.vault.head_rev() == 3
    assert await host.db.fetch_all(sa.select(entry_departures)) == []


@pytest.mark.parametrize("query", ["", "&include=data"])
async def test_pages_of_one_environment_miss_nothing_and_repeat_nothing(
    client_for: Clients, writer: httpx.AsyncClient, query: str
) -> None:
    blue = await client_for("VIEWER", environment_id="blue")
    for number in range(7):
        await put(writer, f"e{number}", "blue")
    expected = []
    for number, target in enumerate(["red", "blue", None, "red", "blue", "blue", "red"]):
        rev = await put(writer, f"e{number}", target, SECRET)
        expected.append((f"e{number}", rev, target != "blue"))
    for limit in (1, 2, 3, 7):
        seen: list[tuple[str, int, bool]] = []
        since, more = 0, True
        while more:
            page = (await blue.get(f"/api/changes?since={since}&limit={limit}{query}")).json()
            assert len(page["changes"]) == min(limit, 7 - len(seen))
            seen += short(page["changes"])
            since, more = page["next_since"], page["more"]
        assert seen == expected
        assert since == expected[-1][1]


async def test_a_client_of_one_environment_ends_with_its_entries(
    client_for: Clients, writer: httpx.AsyncClient
) -> None:
    blue = await client_for("VIEWER", environment_id="blue")
    mirror: dict[str, str] = {}
    since = 0
    targets = ["blue", "red", None, "blue"]
    for step in range(24):
        entry_id = f"e{step % 5}"
        if step % 7 == 6:
            await writer.delete(f"/api/entries/{entry_id}")
        else:
            await put(writer, entry_id, targets[step * step % 4], base64.b64encode(bytes([step])).decode())
        if step % 3 == 2:
            more = True
            while more:
                page = (await blue.get(f"/api/changes?since={since}&limit=2&include=data")).json()
                for change in page["changes"]:
                    mirror.pop(change["entry_id"], None)
                    if not change["deleted"]:
                        mirror[change["entry_id"]] = change["encrypted_data"]
                since, more = page["next_since"], page["more"]
            stored = (await blue.get("/api/entries?include=data")).json()["entries"]
            assert mirror == {entry["entry_id"]: entry["encrypted_data"] for entry in stored}
