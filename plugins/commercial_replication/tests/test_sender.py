"""The sender, from a write's commit to the backup's confirmation."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from clavitor_commercial_replication import backoff, confirming, fencing, queue, sender, state, tables, window
from clavitor_commercial_replication.models import Task
from clavitor_commercial_replication.service import QUEUED
from clavitor_commercial_replication_testing.apps import Pair, Pop, encoded, pair, until
from clavitor_commercial_replication_testing.clocks import QuickClock
from clavitor_commercial_replication_testing.network import (
    Forward,
    answering,
    doubled,
    lost_after,
    lost_before,
)

from clavitor_host.api import Alert, Plugin, Write, hookimpl


class Alerts(Plugin):
    """Keeps the alerts of all apps of the process."""

    name = "alerts"
    version = "1.0"
    heard: list[Alert] = []  # noqa: RUF012 - emptied by the fixture

    @hookimpl
    async def alert_operator(self, alert: Alert) -> None:
        self.heard.append(alert)


@pytest.fixture
def alerts() -> list[Alert]:
    Alerts.heard.clear()
    return Alerts.heard


def body_of(request: httpx.Request) -> dict[str, Any]:
    """Return what a request says: nothing, where it only asks who the other POP is, as a start does."""
    found: dict[str, Any] = json.loads(request.content or '{"entries": []}')
    return found


def batches(pops: Pair) -> list[list[str]]:
    """The entry ids of every request that had entries."""
    sent = [[entry["entry_id"] for entry in body_of(request)["entries"]] for request in pops.network.requests]
    return [ids for ids in sent if ids]


async def failures(pop: Pop) -> dict[str, float]:
    text = (await pop.host.metrics.render()).decode()
    start = "clavitor_replication_failures_total{"
    lines = [line.partition(" ") for line in text.splitlines() if line.startswith(start)]
    return {name.partition('reason="')[2].rstrip('"}'): float(value) for name, _, value in lines}


async def greeted(pops: Pair) -> None:
    """Wait until the two have spoken, so that what a test does next befalls what it means."""

    async def heard() -> bool:
        return (await state.peer(pops.primary.host.db)).acked_at is not None

    await until(heard)


# --- the good day ------------------------------------------------------------------------------------------------


async def test_a_write_reaches_the_backup(pops: Pair) -> None:
    await pops.primary.put("a", b"one", environment_id="prod")
    await pops.primary.put("b", b"two")
    await pops.primary.delete("a")
    await pops.settled()
    assert (await pops.backup.entries())["a"]["deleted_at"] is not None


async def test_many_writers_at_once(pops: Pair) -> None:
    async def write(worker: int) -> None:
        for turn in range(30):
            name = f"e{(worker * 7 + turn * 3) % 50}"
            writes = [Write("put", name, encoded(b"%d %d" % (worker, turn) * 20))]
            if (worker + turn) % 5 == 4:
                writes.append(Write("delete", name))
            await pops.primary.write(*writes)

    await asyncio.gather(*(write(worker) for worker in range(10)))
    await pops.settled()


async def test_a_long_queue_leaves_in_full_batches_several_at_once(quick_pops: Pair) -> None:
    pops = quick_pops
    await greeted(pops)
    pops.network.cut = True
    await asyncio.gather(*(pops.primary.put(f"e{number:04}") for number in range(950)))
    running: Counter[str] = Counter()
    most = 0

    async def watched(request: httpx.Request, forward: Forward) -> httpx.Response:
        nonlocal most
        ids = [entry["entry_id"] for entry in body_of(request)["entries"]]
        running.update(ids)
        assert max(running.values(), default=0) <= 1, "two batches with one entry are on their way"
        most = max(most, len({entry_id[:3] for entry_id in running}))
        await asyncio.sleep(0.05)
        answer = await forward(request)
        running.subtract(ids)
        return answer

    pops.network.always = watched
    pops.network.requests.clear()
    pops.network.cut = False
    await pops.settled()
    assert most > 1
    sent = batches(pops)
    assert [len(ids) for ids in sent] == [100] * 9 + [50]
    assert [entry_id for ids in sent for entry_id in ids] == sorted(entry_id for ids in sent for entry_id in ids)


async def test_a_write_that_comes_while_its_entry_is_on_its_way_stays_dirty(pops: Pair) -> None:
    await greeted(pops)
    arrived, go = asyncio.Event(), asyncio.Event()

    async def held(request: httpx.Request, forward: Forward) -> httpx.Response:
        answer = await forward(request)
        arrived.set()
        await go.wait()
        return answer

    pops.network.faults.append(held)
    await pops.primary.put("a", b"one")
    await arrived.wait()
    await pops.primary.put("a", b"two")
    await pops.primary.put("b")
    go.set()
    await pops.settled()
    assert (await pops.backup.entries())["a"]["encrypted_data"] == encoded(b"two")


async def test_the_next_batch_leaves_while_it_is_written_down_that_the_last_one_arrived(
    pops: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that the backup then has everything, since it does; a later write of what it has waits."""
    await greeted(pops)
    noted, go = asyncio.Event(), asyncio.Event()
    submit = pops.primary.host.writer.submit

    async def slow(apply: Any, op: Any, **options: Any) -> Any:
        if isinstance(op, confirming.Confirmed) and op.acks:
            noted.set()
            await go.wait()
        return await submit(apply, op, **options)

    monkeypatch.setattr(pops.primary.host.writer, "submit", slow)
    first = await pops.primary.put("a", b"one")
    await noted.wait()
    noted.clear()
    await pops.primary.put("b")
    await noted.wait()
    assert (await pops.backup.entries()).keys() == {"a", "b"}
    assert await pops.primary.depth() == 2
    told = body_of(pops.network.requests[-1])
    assert (told["complete_rev"], told["depth"]) == (first.rev + 1, 1)
    noted.clear()
    await pops.primary.put("a", b"two")
    await pops.primary.put("c")
    await noted.wait()
    assert batches(pops)[-1] == ["c"]
    told = body_of(pops.network.requests[-1])
    assert (told.get("complete_rev"), told["depth"]) == (None, 2)
    go.set()
    await pops.settled()
    assert (await pops.backup.entries())["a"]["encrypted_data"] == encoded(b"two")


async def test_an_entry_never_travels_twice_at_once(quick_pops: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next write waits, also while the window has room and others pass it."""
    pops = quick_pops
    monkeypatch.setattr(queue, "MAX_ENTRIES", 3)
    monkeypatch.setattr(queue.look, "__kwdefaults__", {**(queue.look.__kwdefaults__ or {}), "limit": 3})
    await greeted(pops)
    running: Counter[str] = Counter()

    async def watched(request: httpx.Request, forward: Forward) -> httpx.Response:
        ids = [entry["entry_id"] for entry in body_of(request)["entries"]]
        running.update(ids)
        assert max(running.values(), default=0) <= 1
        await asyncio.sleep(0.01)
        answer = await forward(request)
        running.subtract(ids)
        return answer

    pops.network.always = watched
    for turn in range(15):
        await asyncio.gather(*(pops.primary.put(f"e{number}", b"%d" % turn) for number in range(20)))
    await pops.settled()


async def test_a_lone_write_costs_one_look_at_the_queue(pops: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """That its batch was answered, and noted, is no news of the queue."""
    await greeted(pops)
    await pops.settled()
    looks: list[queue.Slice] = []
    look = queue.look

    async def counted(*args: Any, **options: Any) -> queue.Slice:
        looks.append(await look(*args, **options))
        return looks[-1]

    monkeypatch.setattr(queue, "look", counted)
    for number in range(3):
        await pops.primary.put(f"e{number}")
        await pops.settled()
    assert [[task.entry_id for task in found.tasks] for found in looks if found.tasks] == [["e0"], ["e1"], ["e2"]]
    assert len([found for found in looks if not found.tasks]) <= 3  # heartbeats may come in between


async def test_that_a_batch_arrived_is_noted_by_the_commit_of_the_next_write(
    pops: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "PATIENCE", 60.0)
    await greeted(pops)
    await pops.primary.put("a")
    await until(lambda: is_to_be_noted(pops.primary))
    assert await has(pops.backup, "a") and await pops.primary.depth() == 1
    await pops.primary.put("b")
    assert [row["entry_id"] for row in await queued(pops.primary)] == ["b"]
    await until(lambda: is_to_be_noted(pops.primary))
    await pops.primary.put("a", b"two")
    assert [row["entry_id"] for row in await queued(pops.primary)] == ["a"], "noted is what was sent, not what is"
    monkeypatch.setattr(sender, "PATIENCE", 0.0)
    await pops.primary.put("c")
    await pops.settled()
    assert (await pops.backup.entries())["a"]["encrypted_data"] == encoded(b"two")


async def test_a_signal_that_is_lost_costs_no_more_than_the_time_between_two_heartbeats(tmp_path: Path) -> None:
    async with pair(tmp_path, primary={"heartbeat_interval": "0.2"}) as pops:
        await greeted(pops)
        await pops.settled()
        for unsubscribe in pops.primary.service._subscriptions:
            unsubscribe()
        await pops.primary.put("a")
        await until(lambda: has(pops.backup, "a"))
        await pops.settled()


async def test_what_is_queued_anew_before_the_cursor_is_seen_once_all_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the window was full when it was told, another entry rests, and no heartbeat is due."""
    monkeypatch.setattr(queue.look, "__kwdefaults__", {**(queue.look.__kwdefaults__ or {}), "limit": 2})
    monkeypatch.setattr(backoff, "pause", lambda _: 600.0)
    async with pair(tmp_path, primary={"heartbeat_interval": "300", "compare_interval": "300"}) as pops:
        db = pops.primary.host.db
        await greeted(pops)
        go: dict[str, asyncio.Event] = {}

        async def gated(request: httpx.Request, forward: Forward) -> httpx.Response:
            entries = body_of(request)["entries"]
            first = entries[0]["entry_id"] if entries else ""
            if first == "low":
                return httpx.Response(400, json={"code": "no", "detail": "No."}, request=request)
            if first:
                await go.setdefault(first, asyncio.Event()).wait()
            answer = await forward(request)
            if first != "e2":
                return answer
            body = answer.json()
            body["acknowledged"].remove("e3")
            return httpx.Response(200, json=body, request=request)

        pops.network.always = gated
        await pops.primary.put("low")
        await until(lambda: is_quarantined(pops.primary, "low"))
        await pops.primary.write(*(Write("put", f"e{number}", encoded(b"x")) for number in range(9)))
        await until(lambda: sent(pops, 1 + 4))
        async with db.transaction() as tx:
            await pops.primary.host.vault.lock(tx)
            assert await queue.requeue(tx, None) == 1
            await pops.primary.host.signals.send(tx, QUEUED)
        go["e0"].set()
        await until(lambda: sent(pops, 1 + 5))
        for first in ("e2", "e4", "e6", "e8"):
            go.setdefault(first, asyncio.Event()).set()
        await until(lambda: sent(pops, 1 + 6))
        assert batches(pops)[-1] == ["low"]


async def test_who_is_no_longer_the_primary_sends_no_heartbeat(tmp_path: Path) -> None:
    """Another process fenced this POP, and the signal is late."""
    async with pair(tmp_path, primary={"heartbeat_interval": "0.2"}) as pops:
        await greeted(pops)
        await pops.settled()
        for unsubscribe in pops.primary.service._subscriptions:
            unsubscribe()
        await fencing.fence(pops.primary.service, "superseded", 2)
        pops.network.requests.clear()
        await asyncio.sleep(0.7)
        assert [body_of(request)["epoch"] for request in pops.network.requests if body_of(request)["epoch"] > 1] == []
        assert (await state.peer(pops.primary.host.db)).last_error is None


async def test_a_stop_notes_what_the_backup_is_known_to_have(pops: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PATIENCE", 0.5)
    await greeted(pops)
    await pops.settled()
    answered = asyncio.Event()
    settle = window.Window.settle

    def told(self: window.Window, tasks: list[Task]) -> None:
        settle(self, tasks)
        answered.set()

    monkeypatch.setattr(window.Window, "settle", told)
    await pops.primary.put("a")
    await answered.wait()
    await pops.primary.app.jobs.stop()
    assert await pops.primary.depth() == 0


async def is_to_be_noted(pop: Pop) -> bool:
    """Tell whether the backup has answered, and the note of it waits for company."""
    return len(pop.host.writer._patient) == 1


async def is_quarantined(pop: Pop, entry_id: str) -> bool:
    return any(row["quarantined_at"] for row in await queued(pop) if row["entry_id"] == entry_id)


async def sent(pops: Pair, number: int) -> bool:
    return len(batches(pops)) >= number


async def has(pop: Pop, entry_id: str) -> bool:
    return entry_id in await pop.entries()


async def queued(pop: Pop) -> list[Any]:
    return list(await pop.host.db.fetch_all(sa.select(tables.queue).order_by(tables.queue.c.rev)))


async def test_while_idle_nothing_is_sent_but_heartbeats(tmp_path: Path) -> None:
    async with pair(tmp_path, primary={"heartbeat_interval": "0.2"}) as pops:
        await pops.primary.put("a")
        await pops.settled()
        looks = 0
        look = queue.look

        async def counted(*args: Any, **options: Any) -> queue.Slice:
            nonlocal looks
            looks += 1
            return await look(*args, **options)

        pops.network.requests.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queue, "look", counted)
            await asyncio.sleep(1.1)
        assert batches(pops) == []
        assert 1 <= len(pops.network.requests) <= 7
        assert looks <= 3 * len(pops.network.requests) + 4


async def test_what_the_backup_is_told_beside_the_entries(quick_pops: Pair) -> None:
    pops = quick_pops
    await greeted(pops)
    written = await pops.primary.put("a")
    await pops.settled()
    last = body_of(pops.network.requests[-1])
    first = await state.required(pops.primary.host.db)
    assert (last["head_rev"], last["complete_rev"], last["depth"], last["epoch"]) == (1, 1, 1, first.epoch)
    assert last["as_of"] == written.updated_at <= last["sent_at"]  # an older one might still be committing at sent_at
    peer = await state.peer(pops.primary.host.db)
    assert (peer.applied_max_rev, peer.last_error) == (1, None)
    seen = await state.peer(pops.backup.host.db)
    assert (seen.complete_rev, seen.head_rev, seen.applied_max_rev) == (1, 1, 1)


async def test_a_request_claims_no_more_than_it_completes(quick_pops: Pair) -> None:
    """As long as anything is left behind it, an earlier write of that may be missing too; the end is told at once."""
    pops = quick_pops
    await greeted(pops)
    pops.network.cut = True
    for number in range(105):
        await pops.primary.put(f"e{number}")
    arrived = []
    both = asyncio.Event()

    async def held(request: httpx.Request, forward: Forward) -> httpx.Response:
        arrived.append(body_of(request))
        if len(arrived) == 3:
            both.set()
        elif len(arrived) == 2:
            await both.wait()
        return await forward(request)

    pops.network.requests.clear()

    async def asked_twice() -> bool:
        return len(pops.network.requests) >= 2

    await until(asked_twice)  # the second request knows of all writes
    pops.network.always = held
    pops.network.cut = False
    await pops.settled()

    async def complete() -> bool:
        return (await state.peer(pops.backup.host.db)).complete_rev == 105

    await until(complete)
    claims = [(len(body["entries"]), body.get("complete_rev")) for body in arrived]
    assert claims == [(0, None), (100, None), (5, None), (0, 105)]
    assert [arrived[0]["depth"], arrived[1]["depth"], arrived[3]["depth"]] == [105, 105, 0]
    assert ["as_of" in body for body in arrived] == [False, False, False, True]


async def test_hashes_are_compared_when_nothing_is_dirty(tmp_path: Path) -> None:
    async with pair(tmp_path, primary={"compare_interval": "0.1", "heartbeat_interval": "0.1"}) as pops:
        await pops.primary.put("a")
        await pops.settled()
        await until(lambda: compared(pops, 0))
        async with pops.backup.host.db.transaction() as tx:
            buckets = bytearray(await state.buckets(tx))
            buckets[:32] = bytes(32 * [7])
            await state.update(tx, buckets=bytes(buckets))
        await until(lambda: compared(pops, 1))
        for request in pops.network.requests:
            body = body_of(request)
            assert "hashes" not in body or body["depth"] == len(body["entries"])


async def compared(pops: Pair, mismatches: int) -> bool:
    peer = await state.peer(pops.primary.host.db)
    return peer.compared_at is not None and peer.mismatches == mismatches


async def test_hashes_are_compared_under_load_too(tmp_path: Path) -> None:
    async with pair(tmp_path, primary={"compare_interval": "0.1", "heartbeat_interval": "300"}) as pops:
        async with asyncio.timeout(60):
            rounds = count()
            while not any("hashes" in body and body["entries"] for body in map(body_of, pops.network.requests)):
                content = b"%d" % next(rounds)
                for number in range(20):
                    await pops.primary.put(f"e{number}", content)
        await pops.settled()
        assert (await state.peer(pops.primary.host.db)).mismatches == 0


async def test_tokens_go_along_when_they_change(quick_pops: Pair) -> None:
    pops = quick_pops
    client = await pops.primary.client_for("VIEWER")
    token = client.headers["Authorization"]

    async def mirrored() -> bool:
        return bool(await pops.backup.host.db.fetch_val(sa.select(sa.func.count()).select_from(tables.tokens)) == 1)

    await until(mirrored)
    await pops.primary.put("a")
    await pops.settled()
    reader = await pops.backup.client(headers={"Authorization": token})
    assert (await reader.get("/api/v1/entries/a")).status_code in (200, 404)
    with_tokens = [body for body in map(body_of, pops.network.requests) if "tokens" in body]
    assert len(with_tokens) <= 3, "they are sent again only when they change"


# --- the network -------------------------------------------------------------------------------------------------


FAULTS = {
    "lost": lost_before,
    "answer lost": lost_after,
    "doubled": doubled,
    "500": answering(500),
    "503": answering(503, {"code": "storage_busy"}, headers={"Retry-After": "1"}),
    "429": answering(429),
    "302": answering(302, headers={"Location": "http://127.0.0.1:1/"}),
    "no json": answering(200, b"<html>hello</html>"),
    "empty": answering(200, {}),
    "foreign ids": answering(200, {"acknowledged": ["never sent"], "failed": [], "already_exists": []}),
    "no list": answering(200, {"acknowledged": "ab", "failed": [], "already_exists": []}),
    "silent": answering(200, {"acknowledged": [], "failed": [], "already_exists": []}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_nothing_is_forgotten_whatever_comes_back(quick_pops: Pair, fault: Any) -> None:
    pops = quick_pops
    await greeted(pops)
    pops.network.faults.extend([fault, fault])
    await asyncio.gather(*(pops.primary.put(f"e{number}") for number in range(20)))
    await pops.settled()
    assert not pops.network.faults or fault is doubled


async def test_pauses_grow_with_every_failure_and_end_with_the_first_success(
    quick_pops: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pops = quick_pops
    await greeted(pops)
    pauses: list[tuple[int, float]] = []
    pause = backoff.pause

    def noted(attempts: int) -> float:
        pauses.append((attempts, pause(attempts)))
        return pauses[-1][1]

    monkeypatch.setattr(backoff, "pause", noted)
    pops.network.faults.extend([answering(500)] * 12)
    await pops.primary.put("a")
    await pops.settled()
    assert [attempts for attempts, _ in pauses] == list(range(1, 13))
    for attempts, seconds in pauses:
        assert min(60.0, 0.5 * 2**attempts) / 2 <= seconds <= min(60.0, 0.5 * 2**attempts)
    pops.network.faults.append(answering(500))
    await pops.primary.put("b")
    await pops.settled()
    assert pauses[-1][0] == 1


async def test_an_answer_may_ask_for_a_longer_pause(quick_pops: Pair, clock: QuickClock) -> None:
    pops = quick_pops
    await greeted(pops)
    clock.slept.clear()
    pops.network.faults.append(answering(503, headers={"Retry-After": "37"}))
    await pops.primary.put("a")
    await pops.settled()
    assert 37.0 in clock.slept


async def test_an_outage_is_written_down_and_forgotten(quick_pops: Pair) -> None:
    pops = quick_pops
    await greeted(pops)
    pops.network.cut = True
    await pops.primary.put("a")

    async def noted() -> bool:
        return (await state.peer(pops.primary.host.db)).last_error is not None

    await until(noted)
    peer = await state.peer(pops.primary.host.db)
    assert peer.last_error is not None and peer.last_error.startswith("network: ")
    pops.network.cut = False
    await pops.settled()
    assert not await noted()
    assert (await failures(pops.primary))["network"] >= 1


async def test_a_primary_that_was_stopped_anywhere_goes_on(pops: Pair) -> None:
    for turn in range(4):
        await asyncio.gather(*(pops.primary.put(f"e{number}", b"%d" % turn) for number in range(150)))
        await asyncio.sleep(0.01 * turn)
        await pops.restart("primary")
    await pops.settled()


async def test_a_backup_that_is_away_is_caught_up_with(tmp_path: Path, clock: QuickClock) -> None:
    async with pair(tmp_path, clock=clock) as pops:
        await pops.primary.put("a")
        await pops.settled()
        pops.network.cut = True
        for number in range(250):
            await pops.primary.put(f"e{number % 130}", b"%d" % number)
        await pops.primary.delete("e3")
        await pops.restart("backup")
        pops.network.cut = False
        await pops.settled()


async def test_the_sender_can_be_cancelled_at_any_moment(pops: Pair) -> None:
    """What is confirmed is cleared once, what is not stays, wherever a takeover of the lease cuts in."""
    for delay in range(40):
        own = asyncio.create_task(sender.Sender(pops.primary.service).run())
        await asyncio.gather(*(pops.primary.put(f"e{number}", b"%d" % delay) for number in range(30)))
        await asyncio.sleep(0.001 * delay)
        own.cancel()
        await asyncio.gather(own, return_exceptions=True)
        await pops.primary.check()
    await pops.settled()


# --- what the backup does not take -------------------------------------------------------------------------------


def refusing(*poison: str, status: int = 400) -> Any:
    """Refuse every request with one of these entries whole."""

    async def refused(request: httpx.Request, forward: Forward) -> httpx.Response:
        if any(entry["entry_id"] in poison for entry in body_of(request)["entries"]):
            return httpx.Response(status, json={"code": "invalid_field", "detail": "No."}, request=request)
        return await forward(request)

    return refused


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_poison_entry_is_found_and_blocks_no_other(
    tmp_path: Path, clock: QuickClock, alerts: list[Alert], status: int
) -> None:
    async with pair(tmp_path, Alerts, clock=clock) as pops:
        pops.network.always = refusing("e13", "e77", status=status)
        await asyncio.gather(*(pops.primary.put(f"e{number}") for number in range(120)))

        async def only_poison() -> bool:
            return await pops.primary.depth() == 2

        await until(only_poison)
        rows = await pops.primary.host.db.fetch_all(sa.select(tables.queue).order_by(tables.queue.c.entry_id))
        await until(lambda: told(alerts, 2))
        rows = await pops.primary.host.db.fetch_all(sa.select(tables.queue).order_by(tables.queue.c.entry_id))
        assert [row["entry_id"] for row in rows] == ["e13", "e77"]
        assert all(row["quarantined_at"] and "No." in row["error"] for row in rows)
        assert sorted(alert.details["entry_id"] for alert in alerts) == ["e13", "e77"]
        assert (await failures(pops.primary))["quarantined"] == 2
        await pops.primary.check()
        pops.network.always = None
        await pops.primary.put("e13", b"mended")
        async with pops.primary.host.db.transaction() as tx:
            await queue.requeue(tx, None)
            await pops.primary.host.signals.send(tx, QUEUED)
        await pops.settled()


async def told(alerts: list[Alert], number: int) -> bool:
    return len([alert for alert in alerts if alert.type == "REPLICATION_QUARANTINED"]) >= number


async def test_a_backup_that_rejects_everything_quarantines_nothing(
    tmp_path: Path, clock: QuickClock, alerts: list[Alert]
) -> None:
    """Then it is no entry's fault: a proxy in between, or a version that does not fit."""
    async with pair(tmp_path, Alerts, clock=clock) as pops:
        await greeted(pops)
        pops.network.always = answering(400, {"code": "bad_request", "detail": "No."})
        await asyncio.gather(*(pops.primary.put(f"e{number}") for number in range(10)))

        async def refused() -> bool:
            return any(alert.type == "REPLICATION_REFUSED" for alert in alerts)

        await until(refused)
        pops.network.always = None
        await pops.settled()
        assert [alert.type for alert in alerts] == ["REPLICATION_REFUSED"]


def failing(*entry_ids: str, retryable: bool, code: str = "not_here") -> Any:
    """Have the backup say of these entries that they failed."""

    async def failed(request: httpx.Request, forward: Forward) -> httpx.Response:
        body = body_of(request)
        bad = [entry["entry_id"] for entry in body["entries"] if entry["entry_id"] in entry_ids]
        body["entries"] = [entry for entry in body["entries"] if entry["entry_id"] not in entry_ids]
        headers = {key: value for key, value in request.headers.items() if key.lower() != "content-length"}
        passed = httpx.Request(request.method, request.url, headers=headers, content=json.dumps(body).encode())
        answer = (await forward(passed)).json()
        answer["failed"] = bad
        answer["failures"] = [
            {"entry_id": entry_id, "code": code, "detail": "Other bytes.", "retryable": retryable} for entry_id in bad
        ]
        return httpx.Response(200, json=answer, request=request)

    return failed


async def test_an_entry_that_failed_for_good_is_quarantined(quick_pops: Pair) -> None:
    pops = quick_pops
    await greeted(pops)
    pops.network.always = failing("b", retryable=False)
    await pops.primary.write(*(Write("put", name, encoded(b"x")) for name in "abc"))

    async def quarantined() -> bool:
        row = await pops.primary.host.db.fetch_one(sa.select(tables.queue))
        return row is not None and row["quarantined_at"] is not None and row["error"] == "not_here: Other bytes."

    await until(quarantined)
    assert await pops.primary.depth() == 1


async def test_an_entry_that_failed_for_now_is_tried_again_while_others_go_on(quick_pops: Pair) -> None:
    pops = quick_pops
    await greeted(pops)
    pops.network.always = failing("b", retryable=True)
    await pops.primary.write(*(Write("put", name, encoded(b"x")) for name in "abc"))

    async def retried() -> bool:
        row = await pops.primary.host.db.fetch_one(sa.select(tables.queue))
        return row is not None and row["retry_count"] >= 2

    await pops.primary.put("d")
    await until(retried)
    assert await pops.primary.depth() == 1
    assert set(await pops.backup.entries()) == {"a", "c", "d"}
    pops.network.always = None
    await pops.settled()


# --- who may replicate -------------------------------------------------------------------------------------------


async def test_a_refusal_is_told_once_until_it_is_over(tmp_path: Path, clock: QuickClock, alerts: list[Alert]) -> None:
    async with pair(tmp_path, Alerts, clock=clock) as pops:
        await greeted(pops)
        pops.network.faults.extend([answering(403, {"code": "pop_not_authorized", "detail": "Not you."})] * 4)
        await pops.primary.put("a")
        await pops.settled()
        refused = [alert for alert in alerts if alert.type == "REPLICATION_REFUSED"]
        assert len(refused) == 1
        assert "Not you." in refused[0].message
        assert (await failures(pops.primary))["refused"] == 4


async def test_a_rotated_secret_is_read_again(tmp_path: Path, clock: QuickClock) -> None:
    old, new = "a" * 40, "b" * 40
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text(old)
    theirs.write_text(old)
    first = {"secret": "", "secret_file": str(ours)}
    second = {"secret": "", "secret_file": str(theirs)}
    async with pair(tmp_path, primary=first, backup=second, clock=clock) as pops:
        await pops.primary.put("a")
        await pops.settled()
        theirs.write_text(new)
        await pops.restart("backup")
        ours.write_text(new)
        pops.network.requests.clear()
        await pops.primary.put("b")
        await pops.settled()
        assert (await failures(pops.primary)).get("unauthorised", 0) == 0


async def test_a_wrong_secret_is_told_once_and_no_end(tmp_path: Path, clock: QuickClock, alerts: list[Alert]) -> None:
    ours = tmp_path / "ours"
    ours.write_text("c" * 40)
    settings = {"secret": "", "secret_file": str(ours)}
    async with pair(tmp_path, Alerts, primary=settings, clock=clock) as pops:
        await pops.primary.put("a")

        async def refused() -> bool:
            return (await failures(pops.primary)).get("unauthorised", 0) >= 2

        await until(refused)
        assert await pops.primary.depth() == 1
        assert [alert.type for alert in alerts] == ["REPLICATION_REFUSED"]
        assert "another secret than this POP" in alerts[0].message
        ours.write_text("0123456789abcdef0123456789abcdef")
        await pops.settled()


async def test_a_primary_that_has_been_superseded_stops(quick_pops: Pair) -> None:
    pops = quick_pops
    await greeted(pops)
    pops.network.always = answering(409, {"code": "stale_epoch", "detail": "Later.", "epoch": 7})
    await pops.primary.put("a")

    async def fenced() -> bool:
        return (await state.required(pops.primary.host.db)).role == "fenced"

    await until(fenced)
    assert (await state.required(pops.primary.host.db)).reason == "superseded"
    pops.network.requests.clear()
    await asyncio.sleep(0.2)
    assert not pops.network.requests
    assert await pops.primary.depth() == 1


@pytest.mark.parametrize("epoch", [1, 0, -1, "9", None, True])
async def test_a_refusal_without_a_later_epoch_fences_nobody(quick_pops: Pair, epoch: Any) -> None:
    pops = quick_pops
    await greeted(pops)
    pops.network.faults.append(answering(409, {"code": "not_a_backup", "detail": "No.", "epoch": epoch}))
    await pops.primary.put("a")
    await pops.settled()
    assert (await state.required(pops.primary.host.db)).role == "primary"


async def test_a_primary_that_knows_less_than_its_backup_stops(quick_pops: Pair) -> None:
    pops = quick_pops
    await greeted(pops)

    async def ahead(request: httpx.Request, forward: Forward) -> httpx.Response:
        answer = (await forward(request)).json()
        return httpx.Response(200, json={**answer, "applied_max_rev": 5}, request=request)

    pops.network.always = ahead
    await pops.primary.put("a")

    async def fenced() -> bool:
        return (await state.required(pops.primary.host.db)).role == "fenced"

    await until(fenced)
    assert (await state.required(pops.primary.host.db)).reason == "behind"


# --- the window --------------------------------------------------------------------------------------------------


async def test_what_was_passed_over_is_looked_at_again_when_a_batch_ends() -> None:
    wake = asyncio.Event()
    open_ = window.Window(wake)
    open_.looked(queue.Slice([_task("a", 1)], 3, None, more=True))
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def travel() -> None:
        await ended

    open_.start(travel(), [_task("a", 1)])
    open_.looked(queue.Slice([_task("b", 3)], 4, 2, more=True))
    assert (open_.cursor, open_.busy, open_.has_room) == (3, {"a"}, True)
    other: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def travel_too() -> None:
        await other

    open_.start(travel_too(), [_task("b", 3)])
    ended.set_result(None)
    await wake.wait()
    open_.collect()
    assert (open_.cursor, open_.busy) == (1, {"b"})
    await open_.abandon()


def _task(entry_id: str, rev: int) -> Task:
    return Task(rev, entry_id, "update", "", None, 1, 1, 1, 0)
