"""The sender, from a write's commit to the backup's confirmation."""

from __future__ import annotations

from clavitor_commercial_replication_testing.apps import Pair


async def test_a_write_reaches_the_backup(pops: Pair) -> None:
    await pops.primary.put("a", b"one")
    await pops.primary.put("b", b"two")
    await pops.primary.delete("a")
    await pops.settled()
    assert (await pops.backup.entries())["a"]["deleted_at"] is not None
