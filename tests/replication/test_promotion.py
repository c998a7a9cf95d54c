"""The backup takes over, and the old primary comes back: it is fenced, says what only it has, and is made equal."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.faults.workload import Ledger, eventually
from tests.replication.invariants import check, counts, drained, role
from tests.replication.workload import Writing

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair, Pop

pytestmark = pytest.mark.timeout(240)

ONLY_HERE = {f"only-here-{n}": "b25seSBoZXJl" for n in range(5)}
THEIRS = "dGhlaXJz"


async def _put(pop: Pop, entry_id: str, data: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=pop.url, headers=pop.authorization, timeout=30) as client:
        return await client.put(f"/api/entries/{entry_id}", json={"encrypted_data": data})


async def _data(pop: Pop, entry_id: str) -> str | None:
    async with httpx.AsyncClient(base_url=pop.url, headers=pop.authorization, timeout=30) as client:
        answer = await client.get(f"/api/entries/{entry_id}")
    assert answer.status_code in (200, 404), answer.text
    return None if answer.status_code == 404 else str(answer.json()["encrypted_data"])


async def _command(pop: Pop, *arguments: str, code: int | None = 0) -> dict[str, Any]:
    return await asyncio.to_thread(lambda: pop.command(*arguments, code=code))


async def _becomes(pop: Pop, expected: str) -> dict[str, Any]:
    async def so() -> bool:
        return bool((await role(pop))["role"] == expected)

    await eventually(so, within=75)
    return await role(pop)


async def _is_read_only(pop: Pop, location: str) -> None:
    refused = await _put(pop, "refused", THEIRS)
    assert refused.status_code == 503, refused.text
    assert refused.json()["code"] == "read_only"
    assert refused.headers["x-primary-location"] == location


async def _equal(pair: Pair, ledger: Ledger) -> None:
    """Check everything; the audit log of a promoted POP begins in the middle of the story."""
    for data in (*ONLY_HERE.values(), THEIRS, None):
        ledger.doubts.extend({entry_id: data} for entry_id in ONLY_HERE)
    await check(pair, ledger, history=False)


async def _old_primary_returns(pair: Pair, ledger: Ledger) -> tuple[Pop, Pop]:
    """Have the primary die with writes that only it has, promote the backup, write there, and start the old one.

    Returns the old and the new primary; `pair` has them changed over.
    """
    old, new = pair.primary, pair.backup
    async with Writing(ledger, 41).on(old) as load:
        await load.wrote(60)
    await drained(pair)
    pair.proxy.cut()
    for entry_id, data in ONLY_HERE.items():
        assert (await _put(old, entry_id, data)).status_code == 201
    await asyncio.to_thread(old.kill)
    shown = await _command(new, "promote", "--dry-run", code=None)
    assert (await role(new))["role"] == "backup", shown
    await _command(new, "promote", "--yes", code=1)  # the primary was heard of seconds ago
    assert (await role(new))["role"] == "backup"
    await _command(new, "promote", "--yes", "--force")
    promoted = await role(new)
    assert (promoted["role"], promoted["epoch"]) == ("primary", 2)
    assert (await _put(new, "only-here-1", THEIRS)).status_code == 201  # what the old one has, too
    async with Writing(ledger, 42).on(new) as load:
        await load.wrote(60)
    pair.proxy.heal()
    await asyncio.to_thread(old.start)
    fenced = await _becomes(old, "fenced")
    assert fenced["reason"] == "superseded"
    await _is_read_only(old, pair.proxy.url)
    await asyncio.to_thread(old.kill)
    await asyncio.to_thread(old.start)
    assert (await role(old))["role"] == "fenced"
    await _is_read_only(old, pair.proxy.url)
    told = await _command(old, "unreplicated")
    assert {entry["entry_id"] for entry in told["entries"]} == ONLY_HERE.keys()
    assert (await _command(old, "reseed", "--yes", code=None), (await role(old))["role"])[1] == "fenced"
    pair.primary, pair.backup = new, old
    return old, new


async def test_what_only_the_old_primary_has_is_replayed(two: Two) -> None:
    pair = two(proxied=True)
    ledger = Ledger()
    old, new = await _old_primary_returns(pair, ledger)
    await _command(old, "replay", "--all", code=None)
    left = await _command(old, "unreplicated")
    assert {entry["entry_id"] for entry in left["entries"]} <= {"only-here-1"}  # the new primary's word counts
    for entry_id, data in ONLY_HERE.items():
        assert await _data(new, entry_id) == (THEIRS if entry_id == "only-here-1" else data)
    await _command(old, "discard", "--all", "--yes")
    await _command(old, "reseed", "--yes")
    await _becomes(old, "backup")
    await _equal(pair, ledger)
    async with Writing(ledger, 43).on(new) as load:  # and back again, in order
        await load.wrote(40)
    await _equal(pair, ledger)
    await _command(old, "promote", "--yes", "--force")
    fenced = await _becomes(new, "fenced")
    assert fenced["reason"] == "superseded"
    assert (await _command(new, "unreplicated"))["entries"] == []
    await _command(new, "reseed", "--yes")
    pair.primary, pair.backup = old, new
    async with Writing(ledger, 44).on(old) as load:
        await load.wrote(40)
    await _equal(pair, ledger)
    assert (await role(old))["epoch"] == (await role(new))["epoch"] == 3


async def test_what_only_the_old_primary_has_is_discarded(two: Two) -> None:
    pair = two(proxied=True)
    ledger = Ledger()
    old, new = await _old_primary_returns(pair, ledger)
    await _command(old, "discard", "--all", "--yes")
    await _command(old, "reseed", "--yes")
    async with Writing(ledger, 45).on(new) as load:
        await load.wrote(40)
    await _equal(pair, ledger)
    for entry_id in ONLY_HERE:
        expected = THEIRS if entry_id == "only-here-1" else None
        assert await _data(new, entry_id) == await _data(old, entry_id) == expected


async def test_a_primary_restored_from_an_old_copy_stops_and_says_so(two: Two) -> None:
    pair = two()
    old, new = pair.primary, pair.backup
    ledger = Ledger()
    async with Writing(ledger, 46).on(old) as load:
        await load.wrote(40)
    await check(pair, ledger)
    await asyncio.to_thread(old.terminate)
    copy = old.folder / "copy"
    shutil.copytree(old.data_dir, copy)
    await asyncio.to_thread(old.start)
    async with Writing(ledger, 47).on(old) as load:
        await load.wrote(40)
    await check(pair, ledger)
    head = (await counts(new))["last_rev"]
    await asyncio.to_thread(old.terminate)
    shutil.rmtree(old.data_dir)
    copy.rename(old.data_dir)
    await asyncio.to_thread(old.start)
    fenced = await _becomes(old, "fenced")
    assert fenced["reason"] == "behind"
    await _is_read_only(old, new.location)
    assert (await counts(new))["last_rev"] == head
    await _command(old, "status", code=5)
    await _command(new, "promote", "--yes", "--force")
    await _command(old, "discard", "--all", "--yes", code=None)  # what was written before it was fenced, if anything
    await _command(old, "reseed", "--yes")
    pair.primary, pair.backup = new, old
    pair.seen.clear()
    async with Writing(ledger, 48).on(new) as load:
        await load.wrote(40)
    await _equal(pair, ledger)
