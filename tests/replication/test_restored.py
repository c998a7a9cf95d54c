"""A backup that has lost what it had: the comparison finds it, and each way that the docs name makes it equal again."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.workload import Ledger, eventually
from tests.replication.invariants import ask, check, drained
from tests.replication.workload import Writing

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair

pytestmark = pytest.mark.timeout(180)


async def _write(pair: Pair, ledger: Ledger, seed: int) -> None:
    async with Writing(ledger, seed).on(pair.primary) as load:
        await load.wrote(40)


async def _noticed(pair: Pair) -> None:
    """Wait until the POPs have found that they differ."""

    async def differing() -> bool:
        (peer,) = await ask(pair.primary, "SELECT mismatches FROM replication_peer")
        return bool(peer["mismatches"] > 0)

    await eventually(differing, within=75)
    done = await asyncio.to_thread(pair.primary.run, "replication", "verify")
    assert done.returncode == 5, done
    assert "entries differ" in done.stdout


@pytest.mark.parametrize(("lost", "way"), [("some", "repair"), ("all", "reseed")])
async def test_a_backup_that_has_lost_what_it_had(two: Two, lost: str, way: str) -> None:
    pair = two()
    ledger = Ledger()
    await _write(pair, ledger, 51)
    await drained(pair)
    backup = pair.backup
    await asyncio.to_thread(backup.terminate)
    copy = backup.folder / "copy"
    shutil.copytree(backup.data_dir, copy)
    await asyncio.to_thread(backup.start)
    await _write(pair, ledger, 52)
    await drained(pair)
    await asyncio.to_thread(backup.terminate)
    shutil.rmtree(backup.data_dir)
    if lost == "some":
        copy.rename(backup.data_dir)
    await asyncio.to_thread(backup.start)
    await _noticed(pair)
    if way == "repair":
        done = await asyncio.to_thread(pair.primary.run, "replication", "verify", "--repair")
        assert done.returncode == 0, done
    else:
        await asyncio.to_thread(backup.command, "reseed", "--yes")
    await _write(pair, ledger, 53)
    await check(pair, ledger)
