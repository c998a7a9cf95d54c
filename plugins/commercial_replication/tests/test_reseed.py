"""Re-seeding: whatever a POP had before and wherever it was interrupted, it ends as the primary's equal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_commercial_replication import (
    applying,
    asking,
    digests,
    fencing,
    losses,
    promotion,
    reseed,
    routes_peer,
    state,
)
from clavitor_commercial_replication.link import LinkError
from clavitor_commercial_replication.models import Batch, Item
from clavitor_commercial_replication_testing.apps import BACKUP_URL, PRIMARY_URL, Pair, Pop, encoded, until
from clavitor_commercial_replication_testing.failover import (
    MIXTURES,
    assert_equal,
    audited,
    drill,
    facts,
    fail_over,
    heard,
    refill,
    until_role,
    until_well,
)
from clavitor_commercial_replication_testing.network import Forward

from clavitor_host.api import ClavitorError


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_peer, "PAGE", 4)
    monkeypatch.setattr(reseed, "REMOVED", 2)
    monkeypatch.setattr(losses, "HELD", 2)


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path) as made:
        yield made


@pytest.fixture(params=MIXTURES)
async def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path, request.param) as made:
        yield made


async def fill(pop: Pop, count: int = 15) -> None:
    """Write entries, change some and delete some."""
    for number in range(count):
        await pop.put(f"entry-{number:02}", f"first {number}".encode())
    for number in range(0, count, 3):
        await pop.put(f"entry-{number:02}", b"changed")
    for number in range(0, count, 5):
        await pop.delete(f"entry-{number:02}")


async def fill_otherwise(pop: Pop) -> None:
    """Have a backup hold entries of another history, whose revs are those of other entries at the primary."""
    names = ["entry-01", "entry-07", "entry-12", "stranger-1", "stranger-2", "stranger-3"]
    items = [Item(name, "create", encoded(b"strange"), 1_700_000_000) for name in names]
    await applying.apply(pop.service, "calgary-01", Batch("calgary-01", items))


async def apart(pops: Pair) -> tuple[Pop, Pop]:
    """Both POPs have histories that went apart, and the old primary's writes are given up."""
    await fill(pops.primary)
    await pops.settled()
    old, new = await fail_over(pops)
    await old.put("entry-01", b"lost")
    await old.delete("entry-02")
    await old.put("only-here", b"lost")
    for number in range(3, 20):
        await new.put(f"entry-{number:02}", b"of the new one")
    await new.delete("entry-04")
    pops.network.cut = False
    await until_role(old, "fenced")
    await fencing.discard(old.service, None)
    return old, new


async def test_a_pop_of_another_history_ends_as_the_primary_s_equal(mixed: Pair) -> None:
    old, new = await apart(mixed)
    done = await refill(old)
    assert done.removed == 1 and done.equal is True
    await assert_equal(new, old)
    assert "only-here" not in await old.entries()
    await until_well(new, old)
    known = await state.required(old.host.db)
    assert (known.role, known.epoch, known.reseed_from, known.reseed_after) == ("backup", 2, None, "")
    assert known.stream_id == (await state.required(new.host.db)).stream_id
    assert [row["title"] for row in await audited(old, "reseed")] == ["was filled from zurich-01"]


async def test_entries_of_the_same_revs_make_way(mixed: Pair) -> None:
    mixed.network.cut = True
    await fill_otherwise(mixed.backup)
    await fill(mixed.primary)

    async def nothing_live(request: httpx.Request, forward: Forward) -> httpx.Response:
        if request.method == "POST":
            raise httpx.ConnectError("cut", request=request)
        return await forward(request)

    mixed.network.always = nothing_live
    mixed.network.cut = False
    url = PRIMARY_URL
    async with asking.linked(mixed.backup.service, url) as link:
        planned = await reseed.plan(mixed.backup.service, link, url)
        assert (planned.own_entries, planned.resuming) == (6, False)
        assert planned.about.entries == len(
            [row for row in (await mixed.primary.entries()).values() if row["deleted_at"] is None]
        )
        shown: list[tuple[int, int]] = []
        done = await reseed.reseed(mixed.backup.service, link, planned, lambda *step: shown.append(step), give_up=True)
    assert (done.entries, done.removed) == (15, 3)
    assert shown == [(4, 15), (8, 15), (12, 15), (15, 15)]
    assert await mixed.primary.entries() == await mixed.backup.entries()
    await mixed.backup.check()
    mixed.network.always = None
    await mixed.settled()


async def test_a_lost_backup_starts_empty_and_is_filled(tmp_path: Path) -> None:
    async with drill(tmp_path) as pops:
        await fill(pops.primary)
        await pops.settled()
        await pops.restart("backup")
        backup = pops.backup
        async with backup.host.db.transaction() as tx:  # as on an empty disk
            for table in ("entries", "replication_versions", "replication_state", "replication_peer"):
                await tx.execute(f"DELETE FROM {table}")
            await tx.execute("UPDATE vault_head SET rev = 0, live_entries = 0")
        await state.begin(backup.host, "backup")

        async def filled() -> bool:
            return len(await backup.entries()) == 15

        await until(filled)
        await until_well(pops.primary, backup)
        assert heard(pops.primary, "REPLICATION_BACKUP_REPLACED")
        done = await refill(backup)
        assert (done.entries, done.removed, done.equal) == (15, 0, True)
        await pops.assert_equal()
        await until_well(pops.primary, backup)


async def status_of(pop: Pop) -> dict[str, Any]:
    from clavitor_commercial_replication import status

    return await status.report(pop.service)


async def test_writes_go_on_while_a_pop_is_filled(pops: Pair) -> None:
    old, new = await apart(pops)
    going = True

    async def write() -> int:
        number = 0
        while going:
            number += 1
            await new.put(f"entry-{number % 20:02}", str(number).encode())
            if number % 7 == 0:
                await new.delete(f"entry-{number % 20:02}")
        return number

    writing = asyncio.create_task(write())
    try:
        for _ in range(3):
            done = await _without_comparing(old)
            assert done >= 19
    finally:
        going = False
    assert await writing > 20
    await assert_equal(new, old)


async def _without_comparing(pop: Pop) -> int:
    """Re-seed, from the start and without waiting for equality in the end."""
    url = asking.url_of(pop.service)
    compared = reseed._compared
    reseed._compared = _nothing  # type: ignore[assignment]
    try:
        async with asking.linked(pop.service, url) as link:
            return (await reseed.reseed(pop.service, link, await reseed.plan(pop.service, link, url))).entries
    finally:
        reseed._compared = compared


async def _nothing(*_: object) -> None:
    return None


class Died(Exception):
    """The process ended there."""


@asynccontextmanager
async def dying(pop: Pop, at: int, *, after_commit: bool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Have this task die at its transaction number `at`: just before its commit, or right after it."""
    db, task, count = pop.host.db, asyncio.current_task(), 0
    real: Callable[[], Any] = db.transaction

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        nonlocal count
        mine = asyncio.current_task() is task
        count += mine
        dies = mine and count == at
        async with real() as tx:
            yield tx
            if dies and not after_commit:
                raise Died
        if dies:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(db, "transaction", transaction)
        yield


@pytest.mark.parametrize("after_commit", [False, True], ids=["before-commit", "after-commit"])
async def test_it_goes_on_wherever_it_died(pops: Pair, after_commit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = await apart(pops)
    for number in range(5):  # so that there is more to remove than one transaction does
        await old.host.db.execute(
            "INSERT INTO entries (entry_id, encrypted_data, rev, created_at, updated_at) "
            "VALUES (:id, 'eA==', :rev, 1, 1)",
            {"id": f"zz-{number}", "rev": 5_000 + number},
        )
        await old.host.db.execute("UPDATE vault_head SET rev = 5004, live_entries = live_entries + 1")
    deaths = 0
    for at in (1, 1, 2, 2, 3, 1, 2, 3, 1, 1, 1, 2):
        try:
            async with dying(old, at, after_commit=after_commit, monkeypatch=monkeypatch):
                await refill(old)
        except Died:
            deaths += 1
            await new.put(f"entry-{at:02}", f"while it was dead {deaths}".encode())
        else:
            break
    assert deaths >= 5
    if (await state.required(old.host.db)).reseed_from is not None:
        await refill(old)
    await assert_equal(new, old)


async def test_an_interrupted_one_goes_on_behind_the_last_page(pops: Pair) -> None:
    old, new = await apart(pops)
    pages = 0

    async def third_page_is_lost(request: httpx.Request, forward: Forward) -> httpx.Response:
        nonlocal pages
        if request.url.path == asking.ENTRIES:
            pages += 1
            if pages == 3:
                raise httpx.ReadError("cut", request=request)
        return await forward(request)

    pops.network.always = third_page_is_lost
    with pytest.raises(asking.AskedInVain):
        await refill(old)
    half = await facts(old)
    assert half.reseed_from == BACKUP_URL and half.role == "backup"
    assert any("is not complete" in text for text in (await status_of(old))["problems"])
    await pops.restart("primary")
    old = pops.primary
    assert (await state.required(old.host.db)).enlisted
    async with asking.linked(old.service) as link:
        planned = await reseed.plan(old.service, link, BACKUP_URL)
        assert planned.resuming and planned.after == "entry-07"
        await reseed.reseed(old.service, link, planned)
    await assert_equal(new, old)


async def test_another_promotion_meanwhile_stops_it(pops: Pair) -> None:
    old, new = await apart(pops)
    async with asking.linked(old.service) as link:
        planned = await reseed.plan(old.service, link, BACKUP_URL)
        await promotion.promote(new.service, force=True)
        with pytest.raises(ClavitorError, match=r"promoted anew|role has changed"):
            await reseed.reseed(old.service, link, planned)
    await refill(old)
    await assert_equal(new, old)
    assert (await facts(old)).epoch == 3


async def test_a_promotion_of_this_pop_meanwhile_stops_it(pops: Pair) -> None:
    old, _ = await apart(pops)
    async with asking.linked(old.service) as link:
        planned = await reseed.plan(old.service, link, BACKUP_URL)
        await promotion.promote(old.service, force=True)
        with pytest.raises(ClavitorError, match=r"it is the other one|not the primary"):
            await reseed.reseed(old.service, link, planned)
    assert (await facts(old)).role == "primary"
    assert "only-here" in await old.entries()


async def test_writes_that_only_this_pop_has_are_in_the_way(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    old, _ = await fail_over(pops)
    await old.put("b")
    pops.network.cut = False
    await until_role(old, "fenced")
    for _ in range(2):
        with pytest.raises(ClavitorError, match=r"1 entry written here .* --give-up does not cover that"):
            await refill(old)
        pops.network.cut = True
    assert (await facts(old)).role == "fenced"


async def test_a_primary_is_not_reseeded_and_a_backup_gives_nothing(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    for cut in (True, False):
        pops.network.cut = cut
        with pytest.raises(ClavitorError, match="this POP is the primary"):
            await refill(pops.primary)
    async with asking.linked(pops.primary.service) as link:
        with pytest.raises(LinkError, match="not the primary; it is the backup"):
            await link.get(asking.ENTRIES)
    await fencing.fence(pops.primary.service, "superseded", 2)
    with pytest.raises(ClavitorError, match="not the primary but the backup"):
        await refill(pops.primary)


async def test_a_pop_that_may_not_replicate_here_is_not_copied_from(tmp_path: Path) -> None:
    async with drill(tmp_path, authorized_primaries="somebody-else") as pops:
        await pops.primary.put("a")
        with pytest.raises(ClavitorError):
            await refill(pops.backup)
        assert (await facts(pops.backup)).role == "backup"


async def test_a_foreign_primary_of_the_same_epoch_is_not_copied_from(pops: Pair) -> None:
    await fill(pops.primary)
    await pops.settled()
    before = await pops.backup.entries()
    async with pops.primary.host.db.transaction() as tx:  # as a primary that was set up anew, on an empty disk
        await tx.execute("DELETE FROM entries")
        await tx.execute("DELETE FROM replication_versions")
        await tx.execute("UPDATE vault_head SET rev = 0, live_entries = 0")
        await state.update(tx, stream_id="another", buckets=bytes(256 * 32), head_rev=0)
    with pytest.raises(ClavitorError, match="another primary of the same epoch 1"):
        await refill(pops.backup)
    assert await pops.backup.entries() == before


async def test_an_older_primary_is_not_copied_from(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    async with pops.backup.host.db.transaction() as tx:
        await state.update(tx, epoch=4)
    with pytest.raises(ClavitorError, match="at epoch 1, and this one knows of 4"):
        await refill(pops.backup)


async def test_entries_that_make_no_sense_are_refused(pops: Pair) -> None:
    old, _ = await apart(pops)

    async def garbage(request: httpx.Request, forward: Forward) -> httpx.Response:
        answer = await forward(request)
        if request.url.path != asking.ENTRIES:
            return answer
        content = answer.content.replace(b'"encrypted_data":"', b'"encrypted_data":"!')
        return httpx.Response(200, content=content, request=request)

    pops.network.always = garbage
    with pytest.raises(asking.AskedInVain, match="cannot be used"):
        await refill(old)
    pops.network.always = None
    await refill(old)


async def test_what_the_primary_lacks_is_not_removed_unasked(mixed: Pair) -> None:
    """The backup's disk was empty when it was promoted: the fenced POP has the only copy."""
    old = mixed.primary
    await fill(old)
    await mixed.settled()
    new = mixed.backup
    mixed.network.cut = True
    async with new.host.db.transaction() as tx:
        for table in ("entries", "replication_versions"):
            await tx.execute(f"DELETE FROM {table}")
        await tx.execute("UPDATE vault_head SET rev = 0, live_entries = 0")
        await state.update(tx, buckets=bytes(256 * 32), head_rev=0)
    await promotion.promote(new.service, force=True)
    await new.put("entry-01", b"later")
    mixed.network.cut = False
    await until_role(old, "fenced")
    live = {key for key, row in (await old.entries()).items() if row["deleted_at"] is None}
    async with asking.linked(old.service) as link:
        planned = await reseed.plan(old.service, link, BACKUP_URL)
        assert planned.lost == len(live - {"entry-01"}) and set(planned.some_lost) <= live
        with pytest.raises(ClavitorError, match="the primary lacks the last write of 11 entries"):
            await reseed.reseed(old.service, link, planned)
        assert (await facts(old)).role == "fenced" and len(await old.entries()) == 15
        await reseed.reseed(old.service, link, planned, give_up=True)
    await assert_equal(new, old)


async def test_a_backup_is_not_refilled_from_a_primary_that_lost_its_writes(pops: Pair) -> None:
    await fill(pops.primary)
    await pops.settled()
    pops.network.cut = True
    async with pops.backup.host.db.transaction() as tx:
        peer = await state.peer(tx)
        await state.update_peer(tx, applied_max_rev=peer.applied_max_rev + 3)
    pops.network.cut = False
    with pytest.raises(ClavitorError, match="the primary has lost them"):
        await refill(pops.backup)
    assert (await facts(pops.backup)).reseed_from is None


async def test_hashes_of_what_is_removed_are_taken_out(pops: Pair) -> None:
    """A live write that takes an unconfirmed entry's rev may have given that one a hash."""
    old, new = await apart(pops)
    original = reseed._finish

    async def finish(service: Any, planned: Any, *rest: Any) -> int:
        async with service.host.db.transaction() as tx:
            await service.host.vault.lock(tx)
            digest = bytes(range(32))
            await tx.execute("UPDATE replication_versions SET digest = :d WHERE epoch = -1", {"d": digest})
            rows = await tx.fetch_all("SELECT entry_id FROM replication_versions WHERE epoch = -1")
            moved = [(row["entry_id"], digest) for row in rows]
            assert moved
            await state.update(tx, buckets=digests.combined(await state.buckets(tx), moved))
        return await original(service, planned, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reseed, "_finish", finish)
        await refill(old)
    await assert_equal(new, old)
