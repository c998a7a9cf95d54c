"""A client that knows both POPs, while the primary dies, comes back, and is replaced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from clavitor_host.client import ReadOnly, VaultClient
from tests.faults.workload import eventually
from tests.replication.invariants import check, drained, mirrored, role

if TYPE_CHECKING:
    from tests.replication.conftest import Two

pytestmark = pytest.mark.timeout(180)

ONE, TWO, THREE = "b25l", "dHdv", "dGhyZWU="


async def test_a_client_reads_on_and_writes_where_writes_are_taken(two: Two) -> None:
    pair = two()
    old, new = pair.primary, pair.backup
    async with VaultClient([old.url, new.url], old.token) as vault:
        await vault.put("entry", ONE)
        assert (await vault.get("entry")).origin.as_of is None
        await drained(pair)
        await mirrored(pair)
        await asyncio.to_thread(old.kill)
        read = await vault.get("entry")  # what this client wrote is there
        assert (read.encrypted_data, read.origin.url) == (ONE, new.url)
        assert read.origin.as_of is not None
        with pytest.raises(ReadOnly) as refused:
            await vault.put("entry", TWO)
        assert refused.value.primary_location == old.location
        await asyncio.to_thread(old.start)

        async def written() -> bool:
            try:
                await vault.put("entry", TWO)
            except ReadOnly:  # the primary is asked last for a while after it did not answer
                return False
            return True

        await eventually(written)
        assert (await vault.get("entry")).encrypted_data == TWO
        await check(pair, history=False)
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(new.command, "promote", "--yes", "--force")
        await vault.put("entry", THREE)
        read = await vault.get("entry")
        assert (read.encrypted_data, read.origin.url, read.origin.as_of) == (THREE, new.url, None)
        await asyncio.to_thread(old.start)

        async def fenced() -> bool:
            return bool((await role(old))["role"] == "fenced")

        await eventually(fenced, within=75)
        await vault.delete("entry")
        await asyncio.to_thread(old.command, "reseed", "--yes")
    pair.primary, pair.backup = new, old
    vault_now = await check(pair, history=False)
    assert vault_now.rows["entry"].deleted
