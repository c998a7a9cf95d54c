"""Two servers on one database: whatever mix of writes and notes they commit, none waits for the other for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clavitor_host.audit.models import AuditEntry
from clavitor_host.audit.verify import verify
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.testing import Harness, running_app, settings
from clavitor_host.vault.models import Write, WriteSet

ROUNDS = 60


@pytest.mark.in_process
async def test_notes_and_writes_of_two_servers_do_not_lock_each_other_out(
    vault_url: str, tmp_path: Path, bundle: BundleInfo
) -> None:
    config = settings(tmp_path / "data", bundle, {"CLAVITOR_DATABASE_URL": vault_url})

    async def put(server: Harness, name: str) -> None:
        write = Write("put", name, encrypted_data="QUJD")
        await server.host.entries.write(WriteSet((write,), actor="me", source=""))

    async def note(server: Harness) -> None:
        await server.host.audit.note(AuditEntry("TEST", "note", "me", "a refusal"))

    async with running_app(config, bundle) as one, running_app(config, bundle) as two:
        for number in range(ROUNDS):  # the notes first: they are what the batch of one begins with
            mixed = [note(one), *(put(one, f"a{number}-{n}") for n in range(8))]
            plain = [put(two, f"b{number}-{n}") for n in range(8)]
            await asyncio.gather(*mixed, *plain)
        result = await verify(one.host.db)
        assert (result.ok, result.rows) == (True, ROUNDS * 17)
