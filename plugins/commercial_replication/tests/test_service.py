"""What a POP does when it starts: a primary looks whether the other POP has taken over, before it takes writes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from clavitor_commercial_replication import service, state, watch
from clavitor_commercial_replication.sender import Sender
from clavitor_commercial_replication_testing.apps import pair
from clavitor_commercial_replication_testing.failover import Ears, heard
from clavitor_commercial_replication_testing.network import Forward

VERSIONS = "/api/replication/versions"


@pytest.fixture(autouse=True)
def silent_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender is kept from finding out itself, as it is for as long as a dead process holds its lease."""

    async def nothing(self: Sender) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Sender, "run", nothing)


@pytest.fixture(autouse=True)
def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a test's own watch looks."""
    monkeypatch.setattr(watch, "INTERVAL", 3_600.0)


async def test_a_primary_that_was_superseded_while_it_was_away_starts_read_only(tmp_path: Path) -> None:
    async with pair(tmp_path, Ears) as pops:
        async with pops.backup.host.db.transaction() as tx:
            await state.update(tx, role="primary", epoch=2, stream_id="own")
        primary = await pops.restart("primary")
        found = await state.required(primary.host.db)
        assert (found.role, found.reason, found.epoch) == ("fenced", "superseded", 2)
        watching = watch.Watch(primary.service)
        for _ in range(2):
            await watching.look()
            assert len(heard(primary, "REPLICATION_FENCED")) == 1


async def test_a_primary_starts_as_one_where_the_other_pop_is_its_backup(tmp_path: Path) -> None:
    async with pair(tmp_path) as pops:
        primary = await pops.restart("primary")
        assert (await state.required(primary.host.db)).role == "primary"
        assert VERSIONS in [request.url.path for request in pops.network.requests]


async def test_a_primary_starts_while_the_other_pop_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PATIENCE", 0.2)

    async def silence(request: httpx.Request, forward: Forward) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with pair(tmp_path) as pops:
        pops.network.always = silence
        async with asyncio.timeout(30):
            primary = await pops.restart("primary")
        assert (await state.required(primary.host.db)).role == "primary"
        pops.network.always = None
        pops.network.cut = True
        assert (await state.required((await pops.restart("primary")).host.db)).role == "primary"
