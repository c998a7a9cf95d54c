"""kill -9 of either POP, or both, at any moment: what got a 2xx is on both in the end, and both are equal."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.workload import Ledger
from tests.replication.invariants import check
from tests.replication.pair import Place
from tests.replication.workload import Writing

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair

pytestmark = pytest.mark.timeout(240)


async def _kill_under_load(pair: Pair, which: str, *, rounds: int, seed: int, ledger: Ledger | None = None) -> None:
    chance = random.Random(seed)
    ledger = Ledger() if ledger is None else ledger
    for number in range(rounds):
        load = Writing(ledger, seed * 100 + number)
        async with load.on(pair.primary):
            await load.wrote(chance.choice((1, 20, 60)))
            await asyncio.sleep(chance.uniform(0, 0.3))  # the moment is the point
            if which in ("backup", "both"):
                pair.backup.kill()
            if which in ("primary", "both"):
                pair.primary.kill()
            else:
                await load.wrote(20)  # the primary does not mind
            if number % 3 == 2 and which != "both":  # and at any moment of the start that has to recover
                pop = pair.primary if which == "primary" else pair.backup
                pop.start(ready=False)
                await asyncio.sleep(chance.uniform(0.3, 1.2))
                pop.kill()
            restarted = [pop for pop in pair.pops if pop.process.poll() is not None]
            await asyncio.gather(*(asyncio.to_thread(pop.start) for pop in restarted))
            await load.wrote(20)  # without a client doing anything about it
        await check(pair, ledger)
    for pop in pair.pops:
        assert pop.terminate() < 20
        assert pop.process.returncode == 0
        assert "Traceback" not in pop.log


async def test_6_kills_of_the_primary(two: Two) -> None:
    await _kill_under_load(two(), "primary", rounds=6, seed=1)


async def test_6_kills_of_the_backup(two: Two) -> None:
    await _kill_under_load(two(), "backup", rounds=6, seed=2)


async def test_4_kills_of_both_at_once(two: Two) -> None:
    await _kill_under_load(two(), "both", rounds=4, seed=3)


@pytest.mark.parametrize("on_postgresql", ["primary", "backup", "both"])
async def test_2_kills_with_postgresql_on_either_side(two: Two, postgres_urls: list[str], on_postgresql: str) -> None:
    one, other = (Place(database_url=url) for url in postgres_urls)
    pair = two(
        primary=one if on_postgresql != "backup" else Place(),
        backup=other if on_postgresql != "primary" else Place(),
    )
    ledger = Ledger()
    await _kill_under_load(pair, "both", rounds=1, seed=4, ledger=ledger)
    pair.start()
    await _kill_under_load(pair, "primary", rounds=1, seed=5, ledger=ledger)


async def test_4_kills_of_a_worker_of_two(two: Two) -> None:
    pair = two(primary=Place(workers=2), backup=Place(workers=2))
    chance = random.Random(6)
    ledger = Ledger()
    for number in range(4):
        pop = (pair.primary, pair.backup)[number % 2]
        load = Writing(ledger, 600 + number)
        async with load.on(pair.primary):
            await load.wrote(20)
            await asyncio.sleep(chance.uniform(0, 0.2))
            killed = chance.choice(pop.worker_pids())
            os.kill(killed, signal.SIGKILL)
            pop.free_leases(killed)
            await load.wrote(60)
        await check(pair, ledger)
    for pop in pair.pops:
        pop.terminate()
        assert pop.process.returncode == 0
