"""Promotion: what it shows, what stands in its way, and what it does in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from clavitor_commercial_replication import digests, promotion, reseed, state
from clavitor_commercial_replication_testing.apps import Pair, until
from clavitor_commercial_replication_testing.clocks import QuickClock
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
from clavitor_commercial_replication_testing.network import Forward, answering

from clavitor_host.api import ClavitorError, Problem


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path) as made:
        yield made


@pytest.fixture(params=MIXTURES)
async def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path, request.param) as made:
        yield made


def later(pops: Pair, seconds: float) -> None:
    """Have the backup's wall clock be ahead."""
    clock = pops.backup.host.clock
    assert isinstance(clock, QuickClock)
    clock.shift = seconds


async def test_a_failover_and_back_again_loses_nothing_that_was_confirmed(mixed: Pair) -> None:
    for number in range(5):
        await mixed.primary.put(f"entry-{number}")
    await mixed.primary.delete("entry-0")
    await mixed.settled()
    old, new = await fail_over(mixed)
    await new.put("entry-1", b"later")
    await new.delete("entry-2")
    mixed.network.cut = False
    await until_role(old, "fenced")
    await refill(old)
    await new.put("entry-3", b"live again")
    await assert_equal(new, old)
    await until_well(new, old)
    mixed.network.cut = True
    await promotion.promote(old.service, force=True)
    await old.put("entry-4", b"home again")
    mixed.network.cut = False
    await until_role(new, "fenced")
    await refill(new)
    await assert_equal(old, new)
    assert {(await facts(pop)).epoch for pop in (old, new)} == {3}


async def test_what_the_backup_lacks_is_told_as_far_as_it_knows(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    await until_well(pops.backup)
    whole = await promotion.preview(pops.backup.service)
    assert (whole.missing, whole.new_epoch, whole.role) == (0, 2, "backup")
    assert "Everything that the primary had when it last spoke is here." in whole.notes
    assert "What it has written after that, nobody here can know." in whole.notes
    async with pops.backup.host.db.transaction() as tx:
        await state.update_peer(tx, head_rev=9, depth=8, complete_rev=1)
    partly = await promotion.preview(pops.backup.service)
    assert partly.missing == 8
    assert any("up to 8 of its writes were not here" in note for note in partly.notes)
    assert (await state.required(pops.backup.host.db)).role == "backup"


async def test_a_primary_that_answers_is_in_the_way(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    preview = await promotion.preview(pops.backup.service)
    assert preview.answers and preview.other_role == "primary"
    with pytest.raises(ClavitorError, match="answers right now: stop it first"):
        await promotion.promote(pops.backup.service)
    assert (await facts(pops.backup)).role == "backup"


async def test_a_primary_that_was_just_heard_is_in_the_way_until_it_was_silent(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    await until_well(pops.backup)
    pops.network.cut = True
    with pytest.raises(ClavitorError, match="so it may be at work"):
        await promotion.promote(pops.backup.service)
    assert (await facts(pops.backup)).role == "backup"
    later(pops, 31)
    done = await promotion.promote(pops.backup.service)
    assert done.obstacles == ()
    assert (await facts(pops.backup)).role == "primary"


async def test_a_promotion_is_one_transaction_with_a_new_stream_and_an_audit_row(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    before = await state.required(pops.backup.host.db)
    _, new = await fail_over(pops)
    after = await state.required(new.host.db)
    assert (after.role, after.epoch, after.reason) == ("primary", 2, None)
    assert after.stream_id not in (None, before.stream_id)
    assert after.head_rev == await new.host.vault.head_rev()
    (row,) = await audited(new, "promote")
    assert row["title"] == "became the primary POP, epoch 2" and row["actor"] == "system"
    peer = await state.peer(new.host.db)
    assert (peer.acked_at, peer.applied_max_rev, peer.compared_at) == (None, 0, None)


async def test_a_new_primary_gives_no_rev_that_the_old_one_may_have_given(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    old, new = await fail_over(pops)
    lost = await old.put("a", b"acknowledged and not replicated")
    change = await new.put("a", b"another")
    assert lost.rev == 2
    assert change.rev == promotion.GENERATION + 1
    pops.network.cut = False
    await until_role(old, "fenced")
    await promotion.promote(old.service, force=True)
    assert (await old.put("b")).rev == 2 * promotion.GENERATION + 1


async def test_the_old_primary_hears_of_it_when_it_sends_itself(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    old, _ = await fail_over(pops)

    async def only_the_old_one_gets_through(request: httpx.Request, forward: Forward) -> httpx.Response:
        if request.url.port == 8501:
            raise httpx.ConnectError("cut one way", request=request)
        return await forward(request)

    pops.network.always = only_the_old_one_gets_through
    pops.network.cut = False
    await until_role(old, "fenced")


async def test_the_old_primary_hears_of_it_when_the_new_one_sends(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    old, new = await fail_over(pops)

    async def only_the_new_one_gets_through(request: httpx.Request, forward: Forward) -> httpx.Response:
        if request.url.port == 8502:
            raise httpx.ConnectError("cut one way", request=request)
        return await forward(request)

    pops.network.always = only_the_new_one_gets_through
    pops.network.cut = False
    await new.put("b")
    await until_role(old, "fenced")
    with pytest.raises(Problem) as refusal:
        await old.put("c")
    assert (refusal.value.status, refusal.value.code) == (503, "read_only")


async def test_a_half_filled_pop_can_be_forced_and_then_takes_stock_of_all_it_has(pops: Pair) -> None:
    for number in range(4):
        await pops.primary.put(f"entry-{number}")
    await pops.settled()
    new = pops.backup
    async with new.host.db.transaction() as tx:
        await new.host.vault.lock(tx)
        await state.update(tx, reseed_from="http://primary.test", reseed_after="entry-1", buckets=digests.NOTHING)
        values = {"epoch": reseed.UNCONFIRMED, "digest": bytes(32)}
        await tx.execute("UPDATE replication_versions SET epoch = :epoch, digest = :digest", values)
    preview = await promotion.preview(new.service)
    assert any("only partly filled" in text for text in preview.obstacles)
    pops.network.cut = True
    with pytest.raises(ClavitorError, match="only partly filled"):
        await promotion.promote(new.service)
    await promotion.promote(new.service, force=True)

    async def enlisted() -> bool:
        return (await state.required(new.host.db)).enlisted

    await until(enlisted)
    await new.check()
    assert await new.depth() == 4
    pops.network.cut = False
    await until_role(pops.primary, "fenced")
    await refill(pops.primary)
    await assert_equal(new, pops.primary)


async def test_a_primary_is_not_promoted_unless_forced_to_a_new_epoch(pops: Pair) -> None:
    with pytest.raises(ClavitorError, match="is the primary already"):
        await promotion.promote(pops.primary.service)
    await promotion.promote(pops.primary.service, force=True)
    assert (await facts(pops.primary)).epoch == 2
    await pops.primary.put("a")
    await pops.settled()
    assert (await facts(pops.backup)).epoch == 2


async def test_two_primaries_of_one_epoch_are_told_apart_by_forcing_one(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    old, new = await fail_over(pops)
    await promotion.promote(old.service, force=True, ask=False)
    assert (await facts(old)).epoch == (await facts(new)).epoch == 2
    pops.network.cut = False

    async def refused() -> bool:
        return bool(heard(old, "REPLICATION_SPLIT_BRAIN"))

    await until(refused)
    assert (await facts(old)).role == (await facts(new)).role == "primary"
    await promotion.promote(new.service, force=True)
    await until_role(old, "fenced")
    assert (await facts(new)).epoch == 3


async def test_a_backup_that_no_primary_has_spoken_to_goes_beyond_the_first_epoch(tmp_path: Path) -> None:
    async with drill(tmp_path) as pops:
        old, new = await fail_over(pops)
        assert (await facts(new)).epoch == 2
        await old.put("a")
        pops.network.cut = False
        await until_role(old, "fenced")


async def test_a_vault_that_was_never_found_equal_is_no_complete_backup(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    pops.network.cut = True
    later(pops, 31)
    for known, says in (({"compared_at": None}, "never compared"), ({"compared_at": 1, "mismatches": 2}, "2 of 256")):
        async with pops.backup.host.db.transaction() as tx:
            await state.update_peer(tx, **known)
        preview = await promotion.preview(pops.backup.service)
        assert any(says in text for text in preview.obstacles)
        assert "Everything that the primary had when it last spoke is here." not in preview.notes
        with pytest.raises(ClavitorError, match=says):
            await promotion.promote(pops.backup.service)
    assert (await facts(pops.backup)).role == "backup"


async def test_what_the_primary_refused_or_could_not_send_counts_as_missing(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    await until_well(pops.backup)
    pops.network.cut = True
    async with pops.backup.host.db.transaction() as tx:
        peer = await state.peer(tx)
        await state.update_peer(tx, head_rev=1_000_000_001, complete_rev=1_000_000_001, depth=3)
    assert peer.complete_rev
    assert (await promotion.preview(pops.backup.service)).missing == 3
    async with pops.backup.host.db.transaction() as tx:
        await state.update_peer(tx, complete_rev=1)
    assert (await promotion.preview(pops.backup.service)).missing == 3


@pytest.mark.parametrize(("status", "body", "away"), [(403, None, False), (500, None, False), (502, None, True)])
async def test_a_pop_that_answers_anything_is_not_gone(pops: Pair, status: int, body: None, away: bool) -> None:
    await pops.primary.put("a")
    await pops.settled()
    await until_well(pops.backup)
    later(pops, 31)
    pops.network.always = answering(status, body)
    preview = await promotion.preview(pops.backup.service)
    assert preview.answers is not away and (preview.refusal is None) is away
    assert any("answers right now" in text for text in preview.obstacles) is not away


async def test_a_promotion_keeps_what_was_known_before(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    await until_well(pops.backup)
    before, peer = await state.required(pops.backup.host.db), await state.peer(pops.backup.host.db)
    _, new = await fail_over(pops)
    after = await state.required(new.host.db)
    assert (after.former_epoch, after.former_stream_id) == (1, before.stream_id)
    assert (after.promoted_complete_rev, after.promoted_from_rev) == (peer.complete_rev, promotion.GENERATION)


async def test_what_would_replicate_nothing_is_said_before(pops: Pair) -> None:
    service = pops.backup.service
    service.config = service.config.model_copy(update={"backup_url": None})
    preview = await promotion.preview(service)
    assert any("backup_url is not set" in note for note in preview.notes)


async def test_hashes_that_a_live_write_left_to_an_unconfirmed_entry_are_taken_out(pops: Pair) -> None:
    new = pops.backup
    await pops.primary.put("a")
    await pops.settled()
    pops.network.cut = True
    async with new.host.db.transaction() as tx:
        await new.host.vault.lock(tx)
        await state.update(tx, reseed_from="http://primary.test")
        await tx.execute("UPDATE replication_versions SET epoch = :epoch", {"epoch": reseed.UNCONFIRMED})
    await promotion.promote(new.service, force=True)

    async def enlisted() -> bool:
        return (await state.required(new.host.db)).enlisted

    await until(enlisted)
    await new.check()
