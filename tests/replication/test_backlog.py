"""100,000 entries are written while the backup is away: it gets them all, and the primary needs no memory for that."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.faults.workload import eventually
from tests.replication.invariants import check, counts, drained
from tests.replication.workload import write_many

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pop

COUNT = 100_000
FLAT = 48 * 1024 * 1024
"""Bytes of its own that the primary may need more: the backlog as objects would be more than 100 MiB."""


def _memory(pop: Pop) -> int:
    """Return the resident memory of a process but for mapped files, in bytes."""
    for line in Path(f"/proc/{pop.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("it does not run")


@pytest.mark.timeout(240)
async def test_100_000_entries_while_the_backup_is_away(two: Two) -> None:
    pair = two()
    await write_many(pair.primary, 2_000, name="before")
    await drained(pair)
    pair.backup.kill()
    memory = [_memory(pair.primary)]
    began = time.monotonic()
    await write_many(pair.primary, COUNT)
    written = time.monotonic() - began
    memory.append(_memory(pair.primary))
    assert (await counts(pair.primary))["depth"] == COUNT
    await asyncio.to_thread(pair.backup.start)
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=pair.primary.url, headers=pair.primary.authorization) as client:
        # some of them once more while they are being sent: the last word must be the last write
        for number in range(0, 2_000, 20):
            again = await client.put(f"/api/entries/many-{number}", json={"encrypted_data": "YWdhaW4="})
            assert again.status_code == 200
            gone = await client.delete(f"/api/entries/many-{COUNT - 1 - number}")
            assert gone.status_code == 204
            memory.append(_memory(pair.primary))

    async def sent() -> bool:
        memory.append(_memory(pair.primary))
        return (await counts(pair.primary))["depth"] == 0

    await eventually(sent, within=100, every=0.5)
    caught_up = time.monotonic() - began
    print(f"written in {written:.1f} s, sent in {caught_up:.1f} s; {memory[0] >> 20} to {max(memory) >> 20} MiB")
    vault = await check(pair)
    assert len(vault.rows) == COUNT + 2_000
    assert vault.rows["many-0"].encrypted_data == "YWdhaW4="
    assert vault.rows[f"many-{COUNT - 1}"].deleted
    assert max(memory) - memory[0] < FLAT, [size >> 20 for size in memory]
