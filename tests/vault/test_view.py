"""`host.vault`: what plugins read of the vault."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from clavitor_host.api import EntryChange, EntryChanges
from clavitor_host.host import Host
from clavitor_host.vault.models import Change, Write, WriteSet

pytestmark = pytest.mark.in_process


class Moved(NamedTuple):
    """What a change says of one environment."""

    environment_id: str
    entry_id: str
    rev: int
    deleted: bool


async def put(host: Host, entry_id: str, environment_id: str | None) -> Change:
    write = Write("put", entry_id, "QUJD", environment_id, keep_environment=False)
    (change,) = await host.entries.write(WriteSet((write,), actor="me", source=""))
    return change


async def delete(host: Host, entry_id: str) -> None:
    await host.entries.write(WriteSet((Write("delete", entry_id),), actor="me", source=""))


def moves(page: EntryChanges) -> list[Moved]:
    return [Moved(change.environment_id, change.entry_id, change.rev, change.deleted) for change in page.changes]


async def test_the_head_is_the_rev_of_the_last_write(host: Host) -> None:
    assert await host.vault.head_rev() == 0
    change = await put(host, "one", None)
    assert await host.vault.head_rev() == change.rev == 1


async def test_changes_of_several_environments_come_in_order_without_blobs(host: Host) -> None:
    await put(host, "free", None)
    first = await put(host, "a", "blue")
    await put(host, "b", "red")
    await put(host, "c", "green")
    await delete(host, "b")
    page = await host.vault.changes(0, {"blue", "red"})
    assert moves(page) == [Moved("blue", "a", 2, False), Moved("red", "b", 5, True)]
    assert page.changes[0] == EntryChange("a", 2, "blue", False, first.updated_at)
    assert (page.next_since, page.more) == (5, False)
    assert moves(await host.vault.changes(2, ["red"])) == [Moved("red", "b", 5, True)]
    assert await host.vault.changes(5, ["red", "blue"]) == EntryChanges((), 5, False)
    assert await host.vault.changes(0, ()) == EntryChanges((), 0, False)


async def test_a_move_between_two_environments_is_told_to_both_on_one_page(host: Host) -> None:
    for number in range(4):
        await put(host, f"e{number}", "blue")
    for number in range(4):
        await put(host, f"e{number}", "red" if number % 2 else None)
    expected = {
        *(Moved("blue", f"e{number}", 5 + number, True) for number in range(4)),
        *(Moved("red", f"e{number}", 5 + number, False) for number in (1, 3)),
    }
    for limit in (1, 2, 3, 6):
        seen: list[Moved] = []
        since, more = 0, True
        while more:
            page = await host.vault.changes(since, ("blue", "red"), limit=limit)
            assert 0 < len(page.changes) <= limit + 1
            seen += moves(page)
            since, more = page.next_since, page.more
        assert set(seen) == expected
        assert [each.rev for each in seen] == [5, 6, 6, 7, 8, 8]


async def test_the_newest_changes_of_each_environment_come_from_its_own_rev(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clavitor_host.vault.view.ENVIRONMENTS", 2)
    for number in range(6):
        await put(host, f"e{number}", "blue" if number % 2 else "red")
    await put(host, "e0", "blue")  # rev 7
    await delete(host, "e1")  # rev 8
    await put(host, "e3", None)  # rev 9
    found = await host.vault.newest_changes({"blue": 0, "red": 3, "green": 0}, limit=3)
    shown = {name: [(each.entry_id, each.rev, each.deleted) for each in changes] for name, changes in found.items()}
    assert shown == {
        "blue": [("e0", 7, False), ("e1", 8, True), ("e3", 9, True)],
        "red": [("e4", 5, False), ("e0", 7, True)],
        "green": [],
    }
    assert await host.vault.newest_changes({}) == {}


async def test_a_write_says_whether_the_entry_came_into_its_environment(host: Host) -> None:
    async def delete_and_put(entry_id: str, environment_id: str) -> Change:
        await delete(host, entry_id)
        return await put(host, entry_id, environment_id)

    assert (await put(host, "e", "blue")).entered_environment
    assert not (await put(host, "e", "blue")).entered_environment
    assert not (await put(host, "e", None)).entered_environment
    assert (await put(host, "e", "blue")).entered_environment
    assert (await put(host, "e", "red")).entered_environment
    assert (await delete_and_put("e", "red")).entered_environment


async def test_living_entries_are_counted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def count(environment_id: str) -> int:
        async with host.db.transaction() as tx:
            return await host.vault.entries_in(tx, environment_id)

    assert await count("blue") == 0
    await put(host, "one", "blue")
    await put(host, "two", "blue")
    await put(host, "three", "red")
    assert await count("blue") == 2
    await delete(host, "one")
    assert await count("blue") == 1
    monkeypatch.setattr("clavitor_host.vault.view.COUNTED", 1)
    await put(host, "one", "blue")
    assert await count("blue") == 1
    await put(host, "one", "red")
    await put(host, "two", None)
    assert await count("blue") == 0


async def test_no_entry_comes_in_while_it_is_decided(host: Host) -> None:
    decided = asyncio.Event()

    async def come() -> None:
        await decided.wait()
        await put(host, "one", "blue")

    coming = asyncio.create_task(come())
    async with host.db.transaction() as tx:
        assert await host.vault.entries_in(tx, "blue") == 0
        decided.set()
        done, _ = await asyncio.wait({coming}, timeout=0.3)
        assert not done
        assert await host.vault.entries_in(tx, "blue") == 0
    await coming
    async with host.db.transaction() as tx:
        assert await host.vault.entries_in(tx, "blue") == 1
