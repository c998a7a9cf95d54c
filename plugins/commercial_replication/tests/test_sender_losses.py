"""The sender and a POP that has lost something: a backup that is replaced, a primary that is restored; and what the
backup refuses, without holding up the rest."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from clavitor_commercial_replication import mirror, promotion, queue, sender, state, tables
from clavitor_commercial_replication.link import LinkError
from clavitor_commercial_replication.models import MirroredToken, Peer
from clavitor_commercial_replication.service import QUEUED
from clavitor_commercial_replication_testing.apps import Pair, Pop, encoded, pair, until
from clavitor_commercial_replication_testing.clocks import QuickClock
from clavitor_commercial_replication_testing.failover import Ears, heard
from clavitor_commercial_replication_testing.network import Forward, answering, lost_before

from clavitor_host.api import Write

QUICK = {"heartbeat_interval": "0.2", "compare_interval": "0.2"}


async def peer(pop: Pop) -> Peer:
    return await state.peer(pop.host.db)


async def believed(pops: Pair) -> bool:
    """Tell whether the backup knows that it has everything, and the primary that it does."""
    head = await pops.primary.host.vault.head_rev()
    return (await peer(pops.backup)).complete_rev == (await peer(pops.primary)).complete_rev == head


async def role_of(pop: Pop) -> tuple[str, str | None]:
    known = await state.required(pop.host.db)
    return known.role, known.reason


def files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}.db*"))


async def replaced(pops: Pair, folder: Path, name: str, copy: Path | None) -> None:
    """Restart a POP on an older copy of its database, or on none."""
    for path in files(folder, name):
        path.unlink()
    if copy is not None:
        for path in files(copy, name):
            shutil.copy(path, folder / path.name)
    await pops.restart(name)


async def copied(pop: Pop, folder: Path, name: str) -> Path:
    """Return a folder with a copy of a POP's database as it is now."""
    target = folder / f"copy-of-{name}"
    target.mkdir()
    async with pop.host.db.transaction() as tx:
        await pop.host.vault.lock(tx)
        for path in files(folder, name):
            shutil.copy(path, target / path.name)
    return target


# --- a backup that has lost something ------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["all", "some"])
async def test_a_backup_that_lost_what_it_had_is_sent_it_again(tmp_path: Path, clock: QuickClock, lost: str) -> None:
    async with pair(tmp_path, Ears, primary=QUICK, clock=clock) as pops:
        await asyncio.gather(*(pops.primary.put(f"e{number}") for number in range(5)))
        await until(lambda: believed(pops))
        copy = await copied(pops.backup, tmp_path, "backup") if lost == "some" else None
        await asyncio.gather(*(pops.primary.put(f"e{number}", b"later") for number in range(3, 20)))
        await until(lambda: believed(pops))
        pops.network.cut = True
        await replaced(pops, tmp_path, "backup", copy)
        claims: list[int] = []

        async def watched(request: httpx.Request, forward: Forward) -> httpx.Response:
            answer = await forward(request)
            there = await pops.backup.host.db.fetch_val("SELECT count(*) FROM entries")
            if (await peer(pops.backup)).complete_rev >= 22:
                claims.append(there)
            return answer

        pops.network.always = watched
        pops.network.cut = False
        await until(lambda: told(pops))
        await until(lambda: believed(pops))
        await pops.settled()
        assert set(claims) == {20}, "it says that it has everything only when it has"
        (alert,) = heard(pops.primary, "REPLICATION_BACKUP_REPLACED")
        assert alert.details["entries"] == (20 if lost == "all" else 17)


async def told(pops: Pair) -> bool:
    return bool(heard(pops.primary, "REPLICATION_BACKUP_REPLACED"))


async def test_a_crash_while_it_is_queued_again_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(tmp_path, Ears, primary=QUICK, clock=QuickClock()) as pops:
        await asyncio.gather(*(pops.primary.put(f"e{number}") for number in range(5)))
        await until(lambda: believed(pops))
        tries: list[int] = []

        async def failing(service: Any, stream: Any, *, above: int) -> int:
            tries.append(above)
            raise LinkError("storage", "gone")

        with monkeypatch.context() as patch:
            patch.setattr(sender, "enlist_again", failing)
            await replaced(pops, tmp_path, "backup", None)

            async def tried() -> bool:
                return len(tries) >= 1

            await until(tried)
            assert (await peer(pops.primary)).complete_rev == 5
        await pops.restart("primary")
        await until(lambda: believed(pops))
        await pops.settled()


# --- a primary that has lost something -----------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["the same entries", "others", "others twice"])
async def test_a_restored_primary_that_has_written_on_stops(tmp_path: Path, clock: QuickClock, over: str) -> None:
    """It has the backup's numbers, under other writes; none of the backup's writes is lost, none is quarantined."""
    async with pair(tmp_path, Ears, primary=QUICK, clock=clock) as pops:
        await pops.primary.put("a")
        await until(lambda: believed(pops))
        copy = await copied(pops.primary, tmp_path, "primary")
        for number in range(5):
            await pops.primary.put(f"lost-{number}")
        await until(lambda: believed(pops))
        kept = await pops.backup.entries()
        pops.network.cut = True
        await replaced(pops, tmp_path, "primary", copy)
        name = "lost" if over == "the same entries" else "other"
        for turn in range(2 if over == "others twice" else 1):
            await asyncio.gather(*(pops.primary.put(f"{name}-{number}", b"%d" % turn) for number in range(8)))
        pops.network.cut = False

        async def stopped() -> bool:
            return await role_of(pops.primary) == ("fenced", "behind")

        await until(stopped)
        found = await pops.backup.entries()
        assert {key: found[key] for key in kept} == kept
        assert not heard(pops.primary, "REPLICATION_QUARANTINED")


async def test_another_write_under_a_number_of_this_stream_stops_the_primary(quick_pops: Pair) -> None:
    """Also when the first answer said nothing of it."""
    pops = quick_pops
    await pops.primary.put("a")
    await until(lambda: believed(pops))

    async def conflict(request: httpx.Request, forward: Forward) -> httpx.Response:
        failure = {"entry_id": "b", "code": "conflict", "detail": "Other.", "retryable": False}
        body = {"acknowledged": [], "failed": ["b"], "already_exists": [], "failures": [failure]}
        return httpx.Response(200, json=body, request=request)

    pops.network.faults.append(conflict)
    await pops.primary.put("b")

    async def stopped() -> bool:
        return await role_of(pops.primary) == ("fenced", "behind")

    await until(stopped)


async def test_a_primary_whose_answers_were_lost_goes_on(tmp_path: Path, clock: QuickClock) -> None:
    """Its backup has more than it knows of, but nothing that it did not write."""
    async with pair(tmp_path, primary=QUICK, clock=clock) as pops:
        await pops.primary.put("a")
        await until(lambda: believed(pops))
        pops.network.always = lost_after_all
        await pops.primary.put("b")

        async def arrived() -> bool:
            return "b" in await pops.backup.entries()

        await until(arrived)
        await pops.restart("primary")
        pops.primary.service.began_at = (1, 0)  # as if another process had written it
        pops.network.always = None
        await pops.primary.put("c")
        await pops.settled()
        assert await role_of(pops.primary) == ("primary", None)


async def lost_after_all(request: httpx.Request, forward: Forward) -> httpx.Response:
    await forward(request)
    raise httpx.ReadTimeout("the answer was lost", request=request)


async def test_an_answer_of_another_epoch_says_nothing_of_this_one(quick_pops: Pair) -> None:
    """This POP was promoted anew while it was on its way."""
    pops = quick_pops
    await pops.primary.put("a")
    await until(lambda: believed(pops))
    arrived, go = asyncio.Event(), asyncio.Event()

    async def held(request: httpx.Request, forward: Forward) -> httpx.Response:
        answer = await forward(request)
        arrived.set()
        await go.wait()
        pops.network.always = lost_before
        return answer

    pops.network.faults.append(held)
    await pops.primary.put("b")
    await arrived.wait()
    await promotion.promote(pops.primary.service, force=True, ask=False)
    go.set()
    await until(pops.sent)
    found = await peer(pops.primary)
    assert (found.complete_rev, found.applied_max_rev, found.acked_at) == (0, 0, None)


# --- what is refused -------------------------------------------------------------------------------------------------


async def test_while_an_entry_is_quarantined_nothing_is_claimed(tmp_path: Path, clock: QuickClock) -> None:
    async with pair(tmp_path, primary=QUICK, clock=clock) as pops:
        await pops.primary.put("a")
        await until(lambda: believed(pops))
        pops.network.cut = True
        change = await pops.primary.put("a", b"refused")
        async with pops.primary.host.db.transaction() as tx:
            await pops.primary.host.vault.lock(tx)
            assert await queue.quarantine(tx, "a", change.rev, "no", 1)
        before = await peer(pops.backup)
        pops.network.requests.clear()
        pops.network.cut = False
        await pops.primary.put("b")

        async def beaten() -> bool:
            return "b" in await pops.backup.entries() and (await peer(pops.backup)).depth == 1

        await until(beaten)
        sent = len(pops.network.requests)
        await asyncio.sleep(1.0)
        assert len(pops.network.requests) - sent <= 12, "it is no reason to be busy"
        after = await peer(pops.backup)
        assert (after.complete_rev, after.as_of) == (before.complete_rev, before.as_of)


async def test_who_refuses_every_entry_gets_them_in_a_few_goes(tmp_path: Path, clock: QuickClock) -> None:
    """Something in between that takes heartbeats alone: each go ends with a pause, and one alert is the last."""
    async with pair(tmp_path, Ears, clock=clock) as pops:
        await pops.primary.put("a")
        await until(lambda: believed(pops))

        async def no_entries(request: httpx.Request, forward: Forward) -> httpx.Response:
            if b'"entries":[]' in request.content:
                return await forward(request)
            return httpx.Response(400, json={"code": "no", "detail": "No."}, request=request)

        pops.network.always = no_entries
        clock.slept.clear()
        await pops.primary.write(*(Write("put", f"e{number}", encoded(b"x")) for number in range(35)))

        async def refused() -> bool:
            found = tables.queue.c.quarantined_at.is_not(None)
            return bool(await pops.primary.host.db.fetch_val(sa.select(sa.func.count()).where(found)) == 35)

        await until(refused)
        alerts = heard(pops.primary, "REPLICATION_QUARANTINED")
        assert len(alerts) == 10 and alerts[-1].message.endswith("one by one.")
        pauses = [seconds for seconds in clock.slept if seconds >= 0.5]
        assert len(pauses) >= 3 and pauses[2] >= 2.0, "they grow, though heartbeats get through"
        pops.network.always = None
        async with pops.primary.host.db.transaction() as tx:
            assert await queue.requeue(tx, None) == 35
            await pops.primary.host.signals.send(tx, QUEUED)
        await pops.settled()


async def test_a_small_limit_that_is_lifted_is_forgotten(quick_pops: Pair) -> None:
    pops = quick_pops
    await pops.primary.put("a")
    await until(lambda: believed(pops))
    pops.network.faults.append(answering(413))
    await pops.primary.write(*(Write("put", f"e{number}", encoded(b"x" * 40_000)) for number in range(4)))
    await pops.settled()
    pops.network.cut = True
    await asyncio.gather(*(pops.primary.put(f"e{number}", b"y" * 40_000) for number in range(40)))
    pops.network.requests.clear()
    pops.network.cut = False
    await pops.settled()
    sizes = [len(request.content) for request in pops.network.requests]
    assert max(sizes) > 300_000


async def test_an_attempt_that_got_no_answer_is_counted(quick_pops: Pair) -> None:
    pops = quick_pops
    await pops.primary.put("a")
    await until(lambda: believed(pops))

    async def no_entries(request: httpx.Request, forward: Forward) -> httpx.Response:
        if b'"entries":[]' in request.content:
            return await forward(request)
        raise httpx.ConnectError("cut", request=request)

    pops.network.always = no_entries
    await pops.primary.put("b")

    async def counted() -> bool:
        return bool(await pops.primary.host.db.fetch_val(sa.select(tables.queue.c.retry_count)) >= 2)

    await until(counted)
    pops.network.always = None
    await pops.settled()


# --- comparisons and tokens ------------------------------------------------------------------------------------------


async def test_a_comparison_that_is_not_answered_is_made_again_soon(tmp_path: Path) -> None:
    keys = {"heartbeat_interval": "300", "compare_interval": "300"}
    async with pair(tmp_path, primary=keys) as pops:
        asked = 0

        async def deaf(request: httpx.Request, forward: Forward) -> httpx.Response:
            nonlocal asked
            answer = (await forward(request)).json()
            if b'"hashes"' in request.content:
                asked += 1
                del answer["differing"]
            return httpx.Response(200, json=answer, request=request)

        pops.network.always = deaf
        await pops.primary.put("a")

        async def again() -> bool:
            return asked >= 3

        await until(again)
        assert (await peer(pops.primary)).compared_at is None
        pops.network.always = None

        async def compared() -> bool:
            return (await peer(pops.primary)).compared_at is not None

        await until(compared)


async def test_logins_do_not_hold_batches_up(quick_pops: Pair) -> None:
    pops = quick_pops
    await pops.primary.put("a")
    await until(lambda: believed(pops))

    async def churn() -> None:
        while True:
            pops.primary.service._note_tokens(None)
            await asyncio.sleep(0.001)

    busy = asyncio.create_task(churn())
    try:
        await asyncio.gather(*(pops.primary.put(f"e{number}") for number in range(50)))
        await pops.settled()
        pops.network.requests.clear()
        await asyncio.sleep(1.0)
        assert len(pops.network.requests) <= 3, "nothing has changed"
    finally:
        busy.cancel()


async def test_tokens_go_along_under_load(quick_pops: Pair) -> None:
    """Also while there is always something on its way."""
    pops = quick_pops
    await pops.primary.put("a")
    await until(lambda: believed(pops))

    async def slow(request: httpx.Request, forward: Forward) -> httpx.Response:
        await asyncio.sleep(0.05)
        return await forward(request)

    pops.network.always = slow
    running = True

    async def load() -> None:
        number = 0
        while running:
            number += 1
            await pops.primary.put(f"e{number % 50}", b"%d" % number)

    writing = asyncio.create_task(load())
    await pops.primary.client_for("VIEWER")

    async def mirrored() -> bool:
        return bool(await pops.backup.host.db.fetch_val(sa.select(sa.func.count()).select_from(tables.tokens)))

    await until(mirrored)
    running = False
    await writing
    await pops.settled()


async def test_tokens_that_are_refused_hold_nothing_up(
    tmp_path: Path, clock: QuickClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path, Ears, primary=QUICK, clock=clock) as pops:
        await pops.primary.put("a")
        await until(lambda: believed(pops))
        many = tuple(
            MirroredToken(f"{number:064x}", "agent", "agent:x", None, "read", "dev", "x", None) for number in range(3)
        )

        async def grants(*_: Any) -> tuple[MirroredToken, ...]:
            return many

        async def too_many(request: httpx.Request, forward: Forward) -> httpx.Response:
            if b'"tokens":[' in request.content:
                return httpx.Response(413, json={"code": "body_too_large", "detail": "Too much."}, request=request)
            return await forward(request)

        monkeypatch.setattr(mirror, "grants", grants)
        pops.network.always = too_many
        pops.primary.service._note_tokens(None)

        async def refused() -> bool:
            return bool(heard(pops.primary, "REPLICATION_TOKENS_REFUSED"))

        await until(refused)
        await pops.primary.put("b")
        await pops.settled()
        await asyncio.sleep(0.7)
        with_tokens = [one for one in pops.network.requests if b'"tokens":[' in one.content]
        assert len(with_tokens) <= 2
        assert len(heard(pops.primary, "REPLICATION_TOKENS_REFUSED")) == 1
        assert not heard(pops.primary, "REPLICATION_REFUSED")
