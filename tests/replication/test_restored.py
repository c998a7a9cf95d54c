"""A backup that has lost what it had: the primary finds out, and sends it again."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.workload import Ledger, eventually
from tests.replication.invariants import check, drained
from tests.replication.workload import Writing

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair

pytestmark = pytest.mark.timeout(180)


async def _write(pair: Pair, ledger: Ledger, seed: int) -> None:
    async with Writing(ledger, seed).on(pair.primary) as load:
        await load.wrote(40)


@pytest.mark.parametrize("lost", ["some", "all"])
async def test_a_backup_that_has_lost_what_it_had(two: Two, lost: str) -> None:
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

    async def found_out() -> bool:
        return "REPLICATION_BACKUP_REPLACED" in pair.primary.log

    await eventually(found_out, within=75)
    await _write(pair, ledger, 53)
    await check(pair, ledger)
