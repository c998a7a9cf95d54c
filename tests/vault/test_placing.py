"""`host.vault`: copies of entries, and entries placed as another vault numbered and dated them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.api import EntryCopy, UniqueViolation, VaultHead, Write, WriteSet
from clavitor_host.audit.tables import audit_log
from clavitor_host.host import Host
from clavitor_host.vault.tables import entries, entry_departures

pytestmark = pytest.mark.in_process

BLOB = base64.b64encode(b"sealed").decode()
OTHER = base64.b64encode(b"sealed anew").decode()
Clients = Callable[..., Awaitable[httpx.AsyncClient]]


def copy(entry_id: str, rev: int, environment_id: str | None = None, *, data: str = BLOB, at: int = 0) -> EntryCopy:
    """Return a living entry as another vault has it."""
    return EntryCopy(entry_id, rev, data, environment_id, 1_000 + rev, at or 2_000 + rev, None)


def tombstone(entry_id: str, rev: int, environment_id: str | None = None) -> EntryCopy:
    """Return a deleted entry as another vault has it."""
    return EntryCopy(entry_id, rev, None, environment_id, 1_000, 2_000 + rev, 2_000 + rev)


async def place(host: Host, *copies: EntryCopy) -> None:
    async with host.db.transaction() as tx:
        await host.vault.lock(tx)
        await host.vault.place(tx, copies)


async def head(host: Host) -> VaultHead:
    async with host.db.transaction() as tx:
        return await host.vault.lock(tx)


async def everything(host: Host) -> list[EntryCopy]:
    async with host.db.transaction() as tx:
        return await host.vault.copies(tx)


async def put(host: Host, entry_id: str, environment_id: str | None = None) -> int:
    write = Write("put", entry_id, BLOB, environment_id, keep_environment=False)
    (change,) = await host.entries.write(WriteSet((write,), actor="me", source=""))
    return change.rev


async def delete(host: Host, entry_id: str) -> int:
    (change,) = await host.entries.write(WriteSet((Write("delete", entry_id),), actor="me", source=""))
    return change.rev


async def feed(client: httpx.AsyncClient, since: int = 0) -> list[tuple[str, int, bool]]:
    """Return what `/api/changes` tells: id, rev, deleted."""
    changes = (await client.get(f"/api/changes?since={since}")).json()["changes"]
    return [(change["entry_id"], change["rev"], change["deleted"]) for change in changes]


async def test_placed_entries_are_read_exactly_as_they_are(host: Host, writer: httpx.AsyncClient) -> None:
    placed = [copy("b", 7, "blue", data=OTHER), copy("a", 4), tombstone("c", 9, "red")]
    await place(host, *placed)
    assert await everything(host) == sorted(placed)
    assert await head(host) == VaultHead(rev=9, updated_at=2_009, live_entries=2)
    read = await writer.get("/api/entries/b")
    assert read.headers["ETag"] == '"7"'
    assert read.json() == {
        "entry_id": "b",
        "encrypted_data": OTHER,
        "rev": 7,
        "created_at": 1_007,
        "updated_at": 2_007,
        "environment_id": "blue",
    }
    assert (await writer.get("/api/entries/c")).status_code == 404
    assert await feed(writer) == [("a", 4, False), ("b", 7, False), ("c", 9, True)]


async def test_an_entry_is_replaced_deleted_and_back(host: Host, writer: httpx.AsyncClient) -> None:
    await place(host, copy("a", 1), copy("b", 2))
    for placed, living in (
        (copy("a", 3, data=OTHER), 2),
        (tombstone("a", 4), 1),
        (tombstone("a", 5), 1),
        (copy("a", 6), 2),
    ):
        await place(host, placed)
        assert (await head(host)).live_entries == living
        async with host.db.transaction() as tx:
            assert await host.vault.copies_of(tx, ["a", "none"]) == [placed]
    listed = (await writer.get("/api/entries")).json()["entries"]
    assert [(entry["entry_id"], entry["rev"]) for entry in listed] == [("a", 6), ("b", 2)]


async def test_nothing_is_placed_when_there_is_nothing(host: Host) -> None:
    await place(host)
    assert await head(host) == VaultHead(0, 0, 0)
    async with host.db.transaction() as tx:
        assert await host.vault.copies_of(tx, []) == []
        assert await host.vault.holders(tx, []) == {}
        assert await host.vault.renumber(tx, []) == {}
        await host.vault.remove(tx, [])


async def test_the_head_never_goes_back_and_writes_go_on_above_it(host: Host) -> None:
    await place(host, copy("a", 50, at=10**18))
    await place(host, copy("b", 20))
    assert await head(host) == VaultHead(50, 10**18, 2)
    assert await put(host, "c") == 51
    assert await head(host) == VaultHead(51, 10**18 + 1, 3)


async def test_placing_is_told_and_audited_by_nobody(host: Host) -> None:
    await place(host, copy("a", 1), tombstone("b", 2))
    assert await host.db.fetch_val(sa.select(sa.func.count()).select_from(audit_log)) == 0


async def test_placing_leaves_the_replication_columns_as_they_are(host: Host) -> None:
    await place(host, copy("a", 1))
    await host.db.execute(sa.update(entries).values(replication_dirty=True, replicated_at=5))
    await place(host, copy("a", 2), copy("b", 3))
    rows = await host.db.fetch_all(
        sa.select(entries.c.replication_dirty, entries.c.replicated_at).order_by(entries.c.entry_id)
    )
    assert [(bool(row["replication_dirty"]), row["replicated_at"]) for row in rows] == [(True, 5), (False, None)]


async def test_a_rev_that_another_entry_has_is_a_violation_that_a_savepoint_takes_back(host: Host) -> None:
    await place(host, copy("a", 1), copy("b", 2))
    async with host.db.transaction() as tx:
        before = await host.vault.lock(tx)
        with pytest.raises(UniqueViolation):
            async with tx.savepoint():
                await host.vault.place(tx, [copy("c", 3), copy("d", 2)])
        assert await host.vault.holders(tx, [1, 2, 3]) == {1: "a", 2: "b"}
        assert await host.vault.lock(tx) == before
        assert await host.vault.renumber(tx, ["b"]) == {"b": 3}
        await host.vault.place(tx, [copy("d", 2)])
    assert [(found.entry_id, found.rev) for found in await everything(host)] == [("a", 1), ("b", 3), ("d", 2)]
    assert await head(host) == VaultHead(3, before.updated_at, 3)


async def test_renumbered_entries_keep_everything_but_their_rev_and_are_told_again(
    host: Host, writer: httpx.AsyncClient
) -> None:
    placed = [copy("a", 1, "blue"), copy("b", 2), tombstone("c", 3)]
    await place(host, *placed)
    async with host.db.transaction() as tx:
        assert await host.vault.renumber(tx, ["c", "a"]) == {"c": 4, "a": 5}
    assert await everything(host) == [placed[0]._replace(rev=5), placed[1], placed[2]._replace(rev=4)]
    assert await feed(writer, 3) == [("c", 4, True), ("a", 5, False)]
    assert (await head(host)).rev == 5


async def test_what_is_removed_is_gone_without_a_trace(host: Host, writer: httpx.AsyncClient) -> None:
    await place(host, copy("a", 1, "blue"), copy("b", 2), tombstone("c", 3))
    await place(host, copy("a", 4, "red"))
    async with host.db.transaction() as tx:
        await host.vault.remove(tx, ["a", "c", "none"])
    assert await head(host) == VaultHead(4, 2_004, 1)
    assert await feed(writer) == [("b", 2, False)]
    assert await host.db.fetch_all(sa.select(entry_departures)) == []


async def test_readers_of_one_environment_hear_of_placed_entries_that_leave_it(host: Host, client_for: Clients) -> None:
    blue = await client_for("VIEWER", environment_id="blue")
    red = await client_for("VIEWER", environment_id="red")
    await place(host, copy("a", 1, "blue"), copy("b", 2, "blue"), copy("c", 3), tombstone("d", 4, "blue"))
    assert await feed(blue) == [("a", 1, False), ("b", 2, False), ("d", 4, True)]
    await place(host, copy("a", 5, "red"), copy("b", 6, None), copy("c", 7, "blue"), copy("d", 8, "red"))
    assert await feed(blue, 4) == [("a", 5, True), ("b", 6, True), ("c", 7, False), ("d", 8, True)]
    assert await feed(red) == [("a", 5, False), ("d", 8, False)]
    assert (await blue.get("/api/entries/a")).status_code == 404
    await place(host, copy("a", 9, "blue"), tombstone("c", 10, "red"))
    assert await feed(blue, 8) == [("a", 9, False), ("c", 10, True)]
    assert await feed(red, 5) == [("d", 8, False), ("a", 9, True), ("c", 10, True)]
    await place(host, copy("a", 11, "red"))
    assert await feed(blue, 10) == [("a", 11, True)]
    told = (await blue.get("/api/changes?since=10")).json()["changes"][0]
    assert (told["environment_id"], told["created_at"], told["updated_at"]) == ("blue", 1_009, 2_011)


async def test_an_earlier_departure_makes_way_for_one_with_its_rev(host: Host, client_for: Clients) -> None:
    """Two vaults that both gave a rev, one of them to an entry that has since been written again."""
    blue = await client_for("VIEWER", environment_id="blue")
    await place(host, copy("a", 1, "blue"), copy("b", 2, "blue"))
    await place(host, copy("a", 3, "red"))
    await place(host, copy("a", 4, "red"))
    await place(host, copy("b", 3, "red"))
    assert await feed(blue) == [("b", 3, True), ("a", 4, True)]


async def test_no_entry_is_written_between_the_lock_and_the_commit(host: Host) -> None:
    locked = asyncio.Event()

    async def write() -> int:
        await locked.wait()
        return await put(host, "late")

    writing = asyncio.create_task(write())
    async with host.db.transaction() as tx:
        await host.vault.lock(tx)
        locked.set()
        done, _ = await asyncio.wait({writing}, timeout=0.3)
        assert not done
        await host.vault.place(tx, [copy("early", 1)])
    assert await writing == 2


async def test_copies_come_page_by_page_of_bounded_count_and_size(host: Host) -> None:
    big = base64.b64encode(bytes(300)).decode()
    wanted = [copy(f"e{number}", number + 1, data=big) for number in range(7)]
    wanted[3] = tombstone("e3", 4)
    await place(host, *wanted)

    async def pages(**bounds: int) -> Sequence[Sequence[EntryCopy]]:
        found: list[list[EntryCopy]] = []
        after = ""
        while True:
            async with host.db.transaction() as tx:
                page = await host.vault.copies(tx, after=after, **bounds)
            if not page:
                return found
            found.append(page)
            after = page[-1].entry_id

    for bounds, sizes in (
        ({"limit": 3}, [3, 3, 1]),
        ({"limit": 7}, [7]),
        ({"max_bytes": 1}, [1] * 7),
        ({"max_bytes": len(big)}, [1, 1, 2, 1, 1, 1]),
        ({"max_bytes": 3 * len(big)}, [4, 3]),
        ({"limit": 2, "max_bytes": 3 * len(big)}, [2, 2, 2, 1]),
    ):
        found = await pages(**bounds)
        assert [len(page) for page in found] == sizes, bounds
        assert [each for page in found for each in page] == wanted


async def test_a_copied_vault_is_equal_to_the_first(host: Host, client_for: Clients) -> None:
    """What clients wrote here is placed again over what is left of it."""
    for number in range(30):
        await put(host, f"e{number % 11}", ("blue", "red", None)[number % 3])
        if number % 4 == 3:
            await delete(host, f"e{number % 11}")
    blue = await client_for("VIEWER", environment_id="blue")
    first, was, told = await everything(host), await head(host), await feed(blue)
    async with host.db.transaction() as tx:
        await host.vault.place(tx, first)
    assert (await everything(host), await head(host), await feed(blue)) == (first, was, told)
    async with host.db.transaction() as tx:
        await host.vault.remove(tx, [each.entry_id for each in first])
        assert (await host.vault.lock(tx)).live_entries == 0
        await host.vault.place(tx, first)
    assert (await everything(host), await head(host)) == (first, was)
    here = [(each.entry_id, each.rev) for each in first if each.environment_id == "blue"]
    assert {(entry_id, rev) for entry_id, rev, _ in await feed(blue)} == set(here)


async def test_a_head_that_was_advanced_gives_higher_revs_only_and_never_goes_back(host: Host) -> None:
    assert await put(host, "a") == 1
    async with host.db.transaction() as tx:
        await host.vault.advance(tx, 1_000)
        await host.vault.advance(tx, 7)
        assert await host.vault.holders(tx, [1]) == {1: "a"}
    assert await host.vault.head_rev() == 1_000
    assert await put(host, "b") == 1_001
