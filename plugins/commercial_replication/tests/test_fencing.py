"""Fencing, and what becomes of writes that only the old primary has: replayed, refused, discarded; never dropped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from clavitor_commercial_replication import asking, fencing, promotion, state, watch
from clavitor_commercial_replication.watch import Watch
from clavitor_commercial_replication_testing.apps import Pair, Pop, encoded, until
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
)
from clavitor_commercial_replication_testing.network import Forward, lost_after

from clavitor_host.api import ClavitorError, Problem, log


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path) as made:
        yield made


@pytest.fixture(params=MIXTURES)
async def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path, request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a test's own watch looks."""
    monkeypatch.setattr(watch, "INTERVAL", 3_600.0)


async def split(pops: Pair) -> tuple[Pop, Pop]:
    """Both have taken writes: the old primary four, the new one one of the same entry; the old one is fenced."""
    for entry_id in ("both", "changed", "gone", "kept"):
        await pops.primary.put(entry_id)
    await pops.settled()
    old, new = await fail_over(pops)
    await old.put("both", b"of the old one")
    await old.put("changed", b"of the old one")
    await old.delete("gone")
    await old.put("new", b"of the old one")
    await new.put("both", b"of the new one")
    pops.network.cut = False
    await until_role(old, "fenced")
    return old, new


async def blob(pop: Pop, entry_id: str) -> str | None:
    row = (await pop.entries()).get(entry_id)
    return None if row is None else row["encrypted_data"]


def ids(rows: list[fencing.Unreplicated]) -> set[str]:
    return {row.entry_id for row in rows}


async def test_replay_brings_over_what_the_new_primary_has_not_written_later_itself(mixed: Pair) -> None:
    old, new = await split(mixed)
    assert ids(await fencing.unreplicated(old.service)) == {"both", "changed", "gone", "new"}
    done = await fencing.replay(old.service, None)
    assert (sorted(done.written), done.same, done.conflicts) == (["changed", "gone", "new"], [], ["both"])
    assert await blob(new, "changed") == await blob(new, "new") == encoded(b"of the old one")
    assert await blob(new, "gone") is None
    assert await blob(new, "both") == encoded(b"of the new one")
    assert ids(await fencing.unreplicated(old.service)) == {"both"}
    await old.check()
    await new.check()
    with pytest.raises(ClavitorError, match="1 entry written here is not on the other POP"):
        await refill(old)
    assert await fencing.discard(old.service, ["both"]) == 1
    await refill(old)
    await assert_equal(new, old)


async def test_a_conflict_can_be_overwritten_by_name(pops: Pair) -> None:
    old, new = await split(pops)
    done = await fencing.replay(old.service, ["both"], overwrite=True)
    assert done.written == ["both"]
    assert await blob(new, "both") == encoded(b"of the old one")
    assert ids(await fencing.unreplicated(old.service)) == {"changed", "gone", "new"}


async def test_a_replay_whose_answer_is_lost_is_repeated_without_harm(pops: Pair) -> None:
    old, new = await split(pops)

    async def lost(request: httpx.Request, forward: Forward) -> httpx.Response:
        return await (lost_after(request, forward) if request.url.path == asking.REPLAY else forward(request))

    pops.network.always = lost
    with pytest.raises(asking.AskedInVain):
        await fencing.replay(old.service, None)
    assert len(await fencing.unreplicated(old.service)) == 4
    revs = {entry_id: row["rev"] for entry_id, row in (await new.entries()).items()}
    pops.network.always = None
    done = await fencing.replay(old.service, None)
    assert (done.written, sorted(done.same), done.conflicts) == ([], ["changed", "gone", "new"], ["both"])
    assert {entry_id: row["rev"] for entry_id, row in (await new.entries()).items()} == revs


async def test_many_writes_are_replayed_in_requests_of_a_hundred(pops: Pair) -> None:
    old, new = await fail_over(pops)
    for number in range(230):
        await old.put(f"entry-{number:03}")
    pops.network.cut = False
    await until_role(old, "fenced")
    done = await fencing.replay(old.service, None)
    assert len(done.written) == 230
    sizes = [
        len(json.loads(request.content)["entries"])
        for request in pops.network.requests
        if request.url.path == asking.REPLAY
    ]
    assert sizes == [100, 100, 30]
    assert await old.depth() == 0
    assert len(await audited(old, "replay")) == 230
    assert len(await new.entries()) == 230
    await refill(old)
    await assert_equal(new, old)


async def test_what_is_discarded_is_recorded_and_gone_with_the_next_reseed(pops: Pair) -> None:
    old, new = await split(pops)
    assert await fencing.discard(old.service, ["new", "gone"]) == 2
    assert ids(await fencing.unreplicated(old.service)) == {"both", "changed"}
    assert {row["entry_id"] for row in await audited(old, "discard")} == {"new", "gone"}
    await old.check()
    assert await blob(old, "new") is not None  # until the re-seed
    assert await fencing.discard(old.service, None) == 2
    await refill(old)
    await assert_equal(new, old)
    assert "new" not in await old.entries()
    assert await blob(old, "gone") is not None


async def test_nothing_is_said_of_nothing_discarded(pops: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, **_: said.append(text))
    await pops.primary.put("a")
    await pops.settled()
    pops.network.cut = True
    await pops.primary.put("b")
    await fencing.fence(pops.primary.service, "superseded", 2)
    for count in (1, 0):
        assert await fencing.discard(pops.primary.service, None) == count
        assert len([text for text in said if "discarded" in text]) == 1
        assert len(await audited(pops.primary, "discard")) == 1


async def test_a_primary_neither_replays_nor_discards_what_waits(pops: Pair) -> None:
    pops.network.cut = True
    await pops.primary.put("a")
    for call in (fencing.discard(pops.primary.service, None), fencing.replay(pops.primary.service, None)):
        with pytest.raises(ClavitorError, match="this POP is the primary"):
            await call
    assert await pops.primary.depth() == 1


async def test_an_entry_that_does_not_wait_is_named(pops: Pair) -> None:
    old, _ = await split(pops)
    with pytest.raises(ClavitorError, match="no write of the entry kept waits here"):
        await fencing.discard(old.service, ["new", "kept"])
    assert await old.depth() == 4


async def test_replay_to_a_pop_that_is_no_primary_changes_nothing(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    pops.network.cut = True
    await pops.primary.put("b")
    await fencing.fence(pops.primary.service, "superseded", 7)
    pops.network.cut = False
    with pytest.raises(asking.AskedInVain, match="not the primary; it is the backup"):
        await fencing.replay(pops.primary.service, None)
    assert await pops.primary.depth() == 1


async def test_fencing_is_durable_and_told_once_and_again_after_a_start(pops: Pair) -> None:
    old, _ = await split(pops)
    known = await state.required(old.host.db)
    assert (known.role, known.reason, known.epoch, known.stream_id) == ("fenced", "superseded", 2, None)
    (row,) = await audited(old, "fence")
    assert json.loads(row["payload"]) == {"reason": "superseded", "epoch": 1, "other_epoch": 2, "unreplicated": 4}
    watching = Watch(old.service)
    await watching.look()
    await watching.look()
    (alert,) = heard(old, "REPLICATION_FENCED")
    assert "4 entries written here are not on the other POP" in alert.message
    again = await pops.restart("primary")
    with pytest.raises(Problem) as refusal:
        await again.put("refused")
    assert refusal.value.status == 503
    assert (await facts(again)).role == "fenced"
    watching = Watch(again.service)
    await watching.look()
    await watching.look()
    assert len(heard(again, "REPLICATION_FENCED")) == 1


async def test_a_fence_that_no_longer_applies_does_nothing(pops: Pair) -> None:
    service = pops.primary.service
    await promotion.promote(service, force=True)  # epoch 2 now
    await pops.primary.put("a")
    watching = Watch(service)
    await watching.look()
    await fencing.fence(service, "superseded", 2)
    await fencing.fence(service, "behind", 1)
    await fencing.fence(service, "behind", 2, applied_max_rev=await pops.primary.host.vault.head_rev())
    assert (await facts(pops.primary)).role == "primary"
    await fencing.fence(pops.backup.service, "superseded", 9)
    assert (await facts(pops.backup)).role == "backup"
    await fencing.fence(service, "superseded", 3)
    assert (await facts(pops.primary)).role == "fenced"
    await watching.look()
    await fencing.fence(service, "superseded", 5)
    assert (await facts(pops.primary)).epoch == 5
    await watching.look()
    assert len(heard(pops.primary, "REPLICATION_FENCED")) == 1


async def test_a_second_fence_is_told_too(pops: Pair) -> None:
    service = pops.primary.service
    watching = Watch(service)
    pops.network.cut = True
    for times in (1, 2):
        await fencing.fence(service, "superseded", 10 * times)
        await watching.look()
        assert len(heard(pops.primary, "REPLICATION_FENCED")) == times
        await promotion.promote(service, force=True)


async def test_a_fenced_pop_that_is_promoted_again_goes_beyond_all_that_it_was_shown(pops: Pair) -> None:
    old, new = await split(pops)
    with pytest.raises(ClavitorError, match="stopped being the primary because the other POP has become"):
        await promotion.promote(old.service)
    await promotion.promote(old.service, force=True)
    assert (await facts(old)).epoch == 3
    await until_role(new, "fenced")
    assert ids(await fencing.unreplicated(new.service)) == {"both"}
    await fencing.discard(new.service, None)
    await refill(new)
    await assert_equal(old, new)
    assert await blob(new, "both") == encoded(b"of the old one")


async def test_a_primary_from_an_old_copy_stops_and_the_backup_goes_on(pops: Pair) -> None:
    primary = pops.primary
    await primary.put("a")
    await pops.settled()
    async with primary.host.db.transaction() as tx:  # as a restore would: what comes now is not in the copy
        saved = {
            table: [dict(row) for row in await tx.fetch_all(f"SELECT * FROM {table}")]
            for table in ("entries", "vault_head", "replication_state", "replication_versions")
        }
    for number in range(5):
        await primary.put(f"later-{number}")
    await pops.settled()
    pops.network.cut = True
    async with primary.host.db.transaction() as tx:
        for table, rows in saved.items():
            await tx.execute(f"DELETE FROM {table}")
            for row in rows:
                names = ", ".join(row)
                values = ", ".join(f":{name}" for name in row)
                await tx.execute(f"INSERT INTO {table} ({names}) VALUES ({values})", row)
    pops.network.cut = False
    await until_role(primary, "fenced")
    found = await facts(primary)
    assert found.reason == "behind"
    await Watch(primary.service).look()
    (alert,) = heard(primary, "REPLICATION_FENCED")
    assert "restored from an older copy" in alert.message and "Promote the backup" in alert.message
    await promotion.promote(pops.backup.service, force=True)
    await refill(primary)
    await assert_equal(pops.backup, primary)
    assert len(await primary.entries()) == 6


async def test_the_vault_s_own_view_of_depth_and_dirty_flags_agree_after_everything(pops: Pair) -> None:
    old, new = await split(pops)

    async def agree(pop: Pop) -> bool:
        dirty = await pop.host.db.fetch_val("SELECT count(*) FROM entries WHERE replication_dirty")
        return bool(dirty == await pop.depth())

    assert await agree(old) and await agree(new)
    await fencing.replay(old.service, ["new"])
    assert await agree(old)
    await fencing.discard(old.service, ["gone"])
    assert await agree(old)
    await until(lambda: agree(new))


async def test_two_primaries_of_one_epoch_do_not_overwrite_each_other_s_writes(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    old, new = await fail_over(pops)
    await promotion.promote(old.service, force=True, ask=False)
    await new.put("a", b"acknowledged by the new one")
    await old.put("z")
    await old.put("a", b"of the old one")
    assert (await facts(old)).epoch == (await facts(new)).epoch == 2
    await promotion.promote(new.service, force=True, ask=False)
    pops.network.cut = False
    await until_role(old, "fenced")
    done = await fencing.replay(old.service, None)
    assert (done.written, done.conflicts) == (["z"], ["a"])
    assert await blob(new, "a") == encoded(b"acknowledged by the new one")


async def test_a_restored_primary_that_is_also_superseded_says_so(pops: Pair) -> None:
    await pops.primary.put("a")
    await fencing.fence(pops.primary.service, "behind", 1)
    await fencing.fence(pops.primary.service, "superseded", 2)
    found = await facts(pops.primary)
    assert (found.reason, found.epoch) == ("superseded", 2)
    known = await state.required(pops.primary.host.db)
    assert known.former_epoch == 1 and known.former_stream_id is not None


def test_nothing_is_claimed_that_nobody_proved() -> None:
    assert "Everything" not in fencing.next_step("superseded", 0)
