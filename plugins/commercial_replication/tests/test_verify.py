"""Comparing entry by entry, and sending again just those that differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from clavitor_commercial_replication import asking, digests, fencing, promotion, reseed, state, telling, verify
from clavitor_commercial_replication.models import Version
from clavitor_commercial_replication.verify import Comparison, Repaired
from clavitor_commercial_replication_testing.apps import Pair, Pop, encoded, until
from clavitor_commercial_replication_testing.failover import (
    MIXTURES,
    assert_equal,
    audited,
    drill,
    facts,
    heard,
    until_well,
)

from clavitor_host.api import ClavitorError, EntryCopy


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path) as made:
        for number in range(12):
            await made.primary.put(f"entry-{number:02}")
        await made.primary.delete("entry-11")
        await made.settled()
        yield made


@pytest.fixture(params=MIXTURES)
async def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path, request.param) as made:
        for number in range(12):
            await made.primary.put(f"entry-{number:02}")
        await made.primary.delete("entry-11")
        await made.settled()
        yield made


async def compare(pop: Pop) -> Comparison:
    async with asking.linked(pop.service) as link:
        return await verify.compare(pop.service, link)


async def kinds(pop: Pop) -> dict[str, str]:
    return {found.entry_id: found.kind for found in (await compare(pop)).differences}


async def repair(pop: Pop, *, discard: bool = False) -> Repaired:
    done = await verify.repair(pop.service, (await compare(pop)).differences, discard=discard)
    await verify.settled(pop.service, [*done.resent, *done.rewritten, *done.removed], seconds=30)
    return done


async def tamper(pop: Pop, entry_id: str, data: str | None, rev: int, *, epoch: int = 1, gone: bool = False) -> None:
    """Change an entry behind replication's back, hashes and all: as a bug or an older copy would."""
    host = pop.host
    async with host.db.transaction() as tx:
        await host.vault.lock(tx)
        rows = await tx.fetch_all("SELECT digest FROM replication_versions WHERE entry_id = :id", {"id": entry_id})
        moved = [(entry_id, row["digest"]) for row in rows]
        await tx.execute("DELETE FROM replication_versions WHERE entry_id = :id", {"id": entry_id})
        if gone:
            await host.vault.remove(tx, [entry_id])
        else:
            copy = EntryCopy(entry_id, rev, data, None, 5, 6, None if data is not None else 6)
            await host.vault.place(tx, [copy])
            digest = digests.digest_of(entry_id, epoch, rev, data)
            await tx.execute(
                "INSERT INTO replication_versions (entry_id, epoch, rev, digest) VALUES (:id, :epoch, :rev, :digest)",
                {"id": entry_id, "epoch": epoch, "rev": rev, "digest": digest},
            )
            moved.append((entry_id, digest))
        head = await host.vault.lock(tx)
        await state.update(tx, head_rev=head.rev, buckets=digests.combined(await state.buckets(tx), moved))


async def revs(pop: Pop) -> dict[str, int]:
    return {entry_id: row["rev"] for entry_id, row in (await pop.entries()).items()}


async def test_equal_vaults_are_found_equal_without_looking_at_entries(pops: Pair) -> None:
    pops.network.requests.clear()
    found = await compare(pops.primary)
    assert found == Comparison("zurich-01", 0, 0, 0, 0, None, ())
    asked = [request for request in pops.network.requests if request.url.path == asking.VERSIONS]
    assert [dict(request.url.params) for request in asked] == [{}]


async def test_what_differs_is_named_and_sent_again_and_nothing_else(mixed: Pair) -> None:
    primary, backup = mixed.primary, mixed.backup
    before = await revs(primary)
    await tamper(backup, "entry-01", None, 0, gone=True)
    await tamper(backup, "entry-02", encoded(b"rotten"), before["entry-02"])
    await tamper(primary, "entry-03", encoded(b"never sent"), 100)
    assert await kinds(primary) == {"entry-01": "missing", "entry-02": "other", "entry-03": "older"}
    done = await repair(primary)
    assert done == Repaired(["entry-01", "entry-03"], ["entry-02"], [], [])
    assert await kinds(primary) == {}
    await assert_equal(primary, backup)
    after = await revs(primary)
    assert after["entry-02"] == 101
    assert {name for name in after if after[name] != before[name]} == {"entry-02", "entry-03"}
    assert (await primary.entries())["entry-02"]["encrypted_data"] == encoded(b"blob")
    assert len(await audited(primary, "repair")) == 1


async def test_what_only_the_backup_has_stays_unless_it_is_discarded(mixed: Pair) -> None:
    primary, backup = mixed.primary, mixed.backup
    before = await revs(primary)
    await tamper(primary, "entry-04", None, 0, gone=True)
    await tamper(primary, "entry-05", encoded(b"of an older copy"), before["entry-04"])
    await tamper(primary, "entry-06", None, 0, gone=True)
    await tamper(backup, "entry-06", None, before["entry-06"])
    assert await kinds(primary) == {"entry-04": "extra", "entry-05": "newer", "entry-06": "extra"}
    done = await repair(primary)
    assert done == Repaired([], [], [], ["entry-04", "entry-05", "entry-06"])
    assert await kinds(primary) != {}
    assert (await backup.entries())["entry-04"]["deleted_at"] is None
    done = await repair(primary, discard=True)
    assert done == Repaired([], ["entry-05"], ["entry-04", "entry-06"], [])
    assert await kinds(primary) == {}
    await assert_equal(primary, backup)
    assert (await backup.entries())["entry-04"]["encrypted_data"] is None
    assert (await backup.entries())["entry-05"]["encrypted_data"] == encoded(b"of an older copy")
    live = await primary.host.db.fetch_val("SELECT live_entries FROM vault_head")
    assert live == await primary.host.db.fetch_val("SELECT count(*) FROM entries WHERE deleted_at IS NULL")


async def test_a_tombstone_that_differs_is_repaired(pops: Pair) -> None:
    await tamper(pops.backup, "entry-11", encoded(b"risen"), (await revs(pops.primary))["entry-11"])
    assert await kinds(pops.primary) == {"entry-11": "other"}
    done = await repair(pops.primary)
    assert done.rewritten == ["entry-11"]
    await assert_equal(pops.primary, pops.backup)
    assert (await pops.backup.entries())["entry-11"]["encrypted_data"] is None


async def test_what_is_on_its_way_does_not_differ(pops: Pair) -> None:
    async with asking.linked(pops.primary.service) as link:
        assert (await asking.about_other(link)).role == "backup"

        async def no_posts(request: object, forward: object) -> object:
            import httpx

            assert isinstance(request, httpx.Request)
            if request.method == "POST":
                raise httpx.ConnectError("cut", request=request)
            return await forward(request)  # type: ignore[operator]

        pops.network.always = no_posts  # type: ignore[assignment]
        await pops.primary.put("entry-00", b"newer")
        await pops.primary.put("new")
        found = await verify.compare(pops.primary.service, link)
    assert found.differences == () and found.buckets == 2 and found.waiting == 2


async def test_a_comparison_under_load_finds_what_really_differs_and_no_more(pops: Pair) -> None:
    await tamper(pops.backup, "entry-01", None, 0, gone=True)
    going = True

    async def write() -> None:
        number = 0
        while going:
            number += 1
            await pops.primary.put(f"entry-{2 + number % 8:02}", str(number).encode())

    writing = asyncio.create_task(write())
    try:
        for _ in range(3):
            assert await kinds(pops.primary) == {"entry-01": "missing"}
    finally:
        going = False
    await writing


async def test_the_operator_is_told_that_hashes_differ_and_when_they_agree_again(pops: Pair) -> None:
    from clavitor_commercial_replication.watch import Watch

    watches = [(pop, Watch(pop.service)) for pop in (pops.primary, pops.backup)]
    await until_well(pops.primary, pops.backup)
    await tamper(pops.backup, "entry-01", None, 0, gone=True)

    async def look() -> None:
        for _, watch in watches:
            await watch.look()

    async with asyncio.timeout(30):
        while not all(heard(pop, "REPLICATION_MISMATCH") for pop, _ in watches):
            await look()
            await asyncio.sleep(0.02)
    await look()
    assert [len(heard(pop, "REPLICATION_MISMATCH")) for pop, _ in watches] == [1, 1]
    assert (await facts(pops.backup)).mismatches == 1
    await repair(pops.primary)
    async with asyncio.timeout(30):
        while not all(heard(pop, "REPLICATION_EQUAL") for pop, _ in watches):
            await look()
            await asyncio.sleep(0.02)
    await until_well(pops.primary, pops.backup)


async def test_only_a_primary_with_a_settled_backup_compares(pops: Pair) -> None:
    with pytest.raises(ClavitorError, match="this POP is the backup: compare on the primary"):
        await compare(pops.backup)
    async with pops.backup.host.db.transaction() as tx:
        await state.update(tx, reseed_from="http://somewhere.test")
    with pytest.raises(ClavitorError, match="is being re-seeded"):
        await compare(pops.primary)
    async with pops.backup.host.db.transaction() as tx:
        await state.update(tx, reseed_from=None)
    pops.network.cut = True
    with pytest.raises(ClavitorError, match="cannot be reached"):
        await compare(pops.primary)


async def test_a_forced_primary_from_an_old_copy_and_its_backup_can_be_made_equal(pops: Pair) -> None:
    """What only the backup has is shown first, and given up by name of the option alone."""
    primary, backup = pops.primary, pops.backup
    pops.network.cut = True
    await tamper(primary, "entry-09", None, 0, gone=True)
    await tamper(primary, "entry-10", encoded(b"old"), 3_000)
    await fencing.fence(primary.service, "behind", 1)
    await promotion.promote(primary.service, force=True)
    pops.network.cut = False
    await primary.put("entry-00", b"after the promotion")
    await pops.primary.put("another")

    async def caught_up() -> bool:
        return (await facts(backup)).epoch == 2 and await primary.depth() == 0

    await until(caught_up)
    assert set(await kinds(primary)) == {"entry-09", "entry-10"}
    await repair(primary, discard=True)
    await assert_equal(primary, backup)


async def test_versions_are_read_page_by_page(pops: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await tamper(pops.backup, "entry-01", None, 0, gone=True)
    await tamper(pops.backup, "entry-08", None, 0, gone=True)
    original = asking.versions_page

    async def small(tx: object, buckets: object, after: str, *, scanned: int = 0) -> object:
        return await original(tx, buckets, after, scanned=3)  # type: ignore[arg-type]

    monkeypatch.setattr(asking, "versions_page", small)
    assert await kinds(pops.primary) == {"entry-01": "missing", "entry-08": "missing"}


async def test_hashes_that_are_wrong_by_themselves_are_told_from_entries_that_differ(pops: Pair) -> None:
    for pop in (pops.primary, pops.backup):
        good = await state.buckets(pop.host.db)
        async with pop.host.db.transaction() as tx:
            await state.update(tx, buckets=bytes(32) + good[32:-32] + bytes(range(32)))
        found = await compare(pops.primary)
        assert (found.differences, found.unexplained) == ((), found.buckets)
        assert found.unexplained >= 1
        assert await verify.recount(pop.service) is True
        assert await state.buckets(pop.host.db) == good
        assert (await compare(pops.primary)).unexplained == 0
        assert await verify.recount(pop.service) is False


def test_an_unconfirmed_entry_is_below_anything_that_a_primary_can_have() -> None:
    assert reseed.UNCONFIRMED < 0


def test_what_may_be_the_only_copy_is_shown_and_given_up_only_when_confirmed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = Version(1, 7, bytes(32))
    extra = verify.Difference("only-there", "extra", None, theirs)
    found = Comparison("zurich-01", 1, 0, 0, 0, None, (extra,))
    with pytest.raises(ClavitorError, match="confirm with --yes"):
        telling.confirm_discard(found, yes=False)
    assert "only-there: only the backup has it (here -, backup 1/7)" in capsys.readouterr().err
    telling.confirm_discard(found, yes=True)
    telling.confirm_discard(found._replace(differences=()), yes=False)
