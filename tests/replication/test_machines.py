"""Disks and clocks of either POP fail: writes that are acknowledged reach the backup, both are equal in the end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.workload import Ledger, eventually
from tests.replication.faults import Clock, failing_sync, fill, give_room, refused
from tests.replication.invariants import ask, check, counts, drained
from tests.replication.pair import Place
from tests.replication.workload import Writing

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair

pytestmark = pytest.mark.timeout(240)


async def _in_trouble(pair: Pair) -> None:
    """Wait until the primary has noticed that the backup takes nothing, and has more to send than before."""

    async def noticed() -> bool:
        (peer,) = await ask(pair.primary, "SELECT last_error_at, acked_at FROM replication_peer")
        late = peer["last_error_at"] is not None and peer["last_error_at"] > (peer["acked_at"] or 0)
        return late and (await counts(pair.primary))["depth"] > 0

    await eventually(noticed, within=60)


async def _ended_well(pair: Pair) -> None:
    for pop in pair.pops:
        assert await asyncio.to_thread(pop.terminate) < 20
        assert pop.process.returncode == 0
        assert "Traceback" not in pop.log


async def test_the_disk_of_the_primary_is_full(two: Two, small_disk: Path) -> None:
    pair = two(primary=Place(data_dir=small_disk / "data"))
    ledger = Ledger()
    load = Writing(ledger, 21)
    ballast = small_disk / "ballast"
    async with load.on(pair.primary):
        for _ in range(2):
            await load.wrote(30)
            fill(ballast)
            await refused(ledger, "storage_full")
            ballast.unlink()
            await load.wrote(30)  # without a restart
    await check(pair, ledger)
    async with Writing(ledger, 22).on(pair.primary) as load:
        await load.wrote(30)
        fill(ballast)
        pair.primary.kill()
    ballast.unlink()
    pair.primary.start()
    await check(pair, ledger)
    await _ended_well(pair)


async def test_the_disk_of_the_backup_is_full(two: Two, small_disk: Path) -> None:
    pair = two(backup=Place(data_dir=small_disk / "data"))
    ledger = Ledger()
    load = Writing(ledger, 23)
    ballast = small_disk / "ballast"
    async with load.on(pair.primary):
        for number in range(2):
            await load.wrote(30)
            fill(ballast)
            await load.wrote(30)
            await _in_trouble(pair)
            if number:
                pair.backup.kill()
                give_room(small_disk)
                await asyncio.to_thread(pair.backup.start)
            else:
                ballast.unlink()
            await load.wrote(30)
    assert ledger.statuses[503] == 0, "clients of the primary never notice"
    await check(pair, ledger)
    await _ended_well(pair)


@pytest.mark.parametrize("side", ["primary", "backup"])
async def test_a_disk_fails_to_sync(two: Two, side: str) -> None:
    pair = two()
    ledger = Ledger()
    load = Writing(ledger, 24)
    async with load.on(pair.primary):
        for _ in range(2):
            await load.wrote(30)
            async with failing_sync(getattr(pair, side)):
                if side == "primary":
                    await refused(ledger, "storage_unavailable")
                else:
                    await load.wrote(30)
                    await _in_trouble(pair)
            await load.wrote(30)
    await check(pair, ledger)
    await _ended_well(pair)


@pytest.mark.parametrize("side", ["primary", "backup"])
async def test_a_clock_jumps(two: Two, tmp_path: Path, side: str) -> None:
    clock = Clock(tmp_path / "clock")
    place = Place(environ=clock.environ)
    pair = two(**{side: place})
    ledger = Ledger()
    load = Writing(ledger, 25)
    async with load.on(pair.primary):
        for offset in ("+20h", "-20h", "+5s", "-2m"):
            clock.jump(offset)
            await load.wrote(30)
        await asyncio.sleep(1)
    await drained(pair)  # one day off is accepted either way
    async with Writing(ledger, 26).on(pair.primary) as load:
        for offset in ("+3d", "-3d"):
            clock.jump(offset)
            await load.wrote(30)
            await _refused_by_date(pair)
            clock.jump("+0")
            await load.wrote(30)
            await _heard_again(pair)
    await check(pair, ledger)
    await _ended_well(pair)


async def _refused_by_date(pair: Pair) -> None:
    """Wait until what the primary shows is not good at the backup any more."""

    async def said() -> bool:
        (peer,) = await ask(pair.primary, "SELECT last_error FROM replication_peer")
        return "401" in str(peer["last_error"]) and (await counts(pair.primary))["depth"] > 0

    await eventually(said, within=60)


async def _heard_again(pair: Pair) -> None:
    """Wait until the backup has taken something again."""
    before = (await counts(pair.backup))["last_rev"]

    async def taken() -> bool:
        return (await counts(pair.backup))["last_rev"] > before

    await eventually(taken, within=90)
