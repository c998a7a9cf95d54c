"""What happens between the POPs: nothing that was promised is lost, nothing comes back, both are equal in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.faults.workload import Ledger, eventually
from tests.replication import proxy
from tests.replication.invariants import ask, check, counts
from tests.replication.proxy import Exchange, Fault, Plan, passing
from tests.replication.workload import Writing

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair

pytestmark = pytest.mark.timeout(240)


async def _met(pair: Pair, faults: Sequence[Fault], within: float = 100) -> None:
    """Wait until every one of these faults was met."""
    names = {proxy._name(fault) for fault in faults}

    async def all_of_them() -> bool:
        return all(pair.proxy.passed[name] for name in names)

    await eventually(all_of_them, within=within)


async def _last_error(pair: Pair) -> str:
    (peer,) = await ask(pair.primary, "SELECT last_error FROM replication_peer")
    return str(peer["last_error"])


async def _ended_well(pair: Pair) -> None:
    for pop in pair.pops:
        assert await asyncio.to_thread(pop.terminate) < 20
        assert pop.process.returncode == 0
        assert "Traceback" not in pop.log


@pytest.mark.parametrize(
    ("faults", "seed"),
    [(proxy.BROKEN, 11), (proxy.GARBAGE, 12), (proxy.ERRORS, 13), (proxy.REPEATED, 14)],
    ids=["broken", "garbage", "5xx", "repeated and reordered"],
)
async def test_requests_that_fail_in_every_way(two: Two, faults: Sequence[Fault], seed: int) -> None:
    pair = two(proxied=True)
    ledger = Ledger()
    load = Writing(ledger, seed, pause=0.04)
    async with load.on(pair.primary):
        await load.wrote(5)
        pair.proxy.fault = Plan(faults, seed=seed)
        await _met(pair, faults)
        await load.wrote(20)
    assert ledger.statuses["no answer"] == 0
    assert ledger.statuses[503] == 0, "clients never notice"
    pair.proxy.heal()
    await check(pair, ledger)
    await _ended_well(pair)


async def test_a_connection_that_is_cut_three_times(two: Two) -> None:
    pair = two(proxied=True)
    ledger = Ledger()
    load = Writing(ledger, 15)
    async with load.on(pair.primary):
        for _ in range(3):
            await load.wrote(30)
            pair.proxy.cut()
            await load.wrote(60)

            async def queued() -> bool:
                return (await counts(pair.primary))["depth"] > 0

            await eventually(queued)
            pair.proxy.heal()
    await check(pair, ledger)
    await _ended_well(pair)


@pytest.mark.parametrize("fault", [proxy.swallowed, proxy.unanswered], ids=["request", "answer"])
async def test_a_half_open_connection_is_given_up(two: Two, fault: Fault) -> None:
    pair = two(proxied=True)
    ledger = Ledger()
    load = Writing(ledger, 16, pause=0.05)
    async with load.on(pair.primary):
        await load.wrote(10)
        pair.proxy.fault = fault
        await eventually(lambda: _twice_met(pair, fault), within=60)
        pair.proxy.fault = passing
        pair.proxy.drop()  # or the second one would be waited for as long
        await load.wrote(10)
    assert ledger.statuses[503] == 0
    await check(pair, ledger)
    await _ended_well(pair)


async def _twice_met(pair: Pair, fault: Fault) -> bool:
    """Whether a second request was tried: the first one was given up."""
    return pair.proxy.passed[proxy._name(fault)] >= 2


async def test_a_slow_connection_delays_and_nothing_else(two: Two) -> None:
    pair = two(proxied=True)
    ledger = Ledger()
    load = Writing(ledger, 17, pause=0.05)
    pair.proxy.fault = proxy.slow(60_000)
    async with load.on(pair.primary):
        await load.wrote(120)
    assert ledger.statuses[503] == 0
    await check(pair, ledger)
    await _ended_well(pair)


async def test_an_entry_that_the_backup_refuses_holds_no_other_up(two: Two) -> None:
    async def poisoned(exchange: Exchange) -> None:
        refuse = b'"poison"' in exchange.request
        await (proxy.answering("400 Bad Request", b'{"code":"invalid_field"}') if refuse else passing)(exchange)

    pair = two(proxied=True)
    pair.proxy.fault = poisoned
    ledger = Ledger()
    load = Writing(ledger, 18, pause=0.02)
    async with load.on(pair.primary), httpx.AsyncClient(base_url=pair.primary.url) as client:
        await load.wrote(20)
        made = await client.put(
            "/api/entries/poison", json={"encrypted_data": "cG9pc29u"}, headers=pair.primary.authorization
        )
        assert made.status_code == 201
        await load.wrote(40)

    async def left_alone() -> bool:
        now = await counts(pair.primary)
        return now["depth"] == now["dirty"] == now["quarantined"] == 1

    await eventually(left_alone, within=60)
    assert (await counts(pair.backup))["entries"] == (await counts(pair.primary))["entries"] - 1
    async with httpx.AsyncClient(base_url=pair.primary.url) as client:
        assert "\nclavitor_replication_quarantined 1.0\n" in (await client.get("/api/v1/prometheus")).text
        assert (await client.get("/readyz")).status_code == 200
    told = await asyncio.to_thread(pair.primary.command, "status", code=5)
    assert told["quarantined"] == 1
    pair.proxy.fault = passing
    await asyncio.to_thread(pair.primary.command, "requeue")
    ledger.promised["poison"] = (0, "cG9pc29u")
    ledger.doubts.append({"poison": "cG9pc29u"})
    await check(pair, ledger)
    await _ended_well(pair)
