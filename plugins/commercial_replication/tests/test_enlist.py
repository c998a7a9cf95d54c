"""Entries that were written while replication was off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from clavitor_commercial_replication import enlist, queue, state
from clavitor_commercial_replication.models import State
from clavitor_commercial_replication_testing.apps import (
    Pop,
    backup_settings,
    fresh_database,
    pair,
    primary_settings,
    running_pop,
    until,
)
from clavitor_commercial_replication_testing.network import Network

from clavitor_host.api import EntryCopy, Transaction


async def written_while_off(folder: Path, url: str, count: int = 7) -> None:
    async with running_pop(folder / "off", {"CLAVITOR_DATABASE_URL": url}) as pop:
        for number in range(count):
            await pop.put(f"e{number}", b"%d" % number)
        await pop.delete("e0")


async def test_a_vault_that_is_there_already_is_replicated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enlist, "PAGE", 2)
    await written_while_off(tmp_path, database_url)
    async with pair(tmp_path, primary_url=database_url) as pops:
        await pops.primary.put("later")
        await pops.settled()
        assert len(await pops.backup.entries()) == 8


async def test_enlisting_goes_on_where_it_was(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enlist, "PAGE", 2)
    await written_while_off(tmp_path, database_url)
    environ = {**primary_settings(), "CLAVITOR_DATABASE_URL": database_url}
    account = enlist._account
    pages: list[list[str]] = []

    async def failing(tx: Transaction, known: State, page: Sequence[EntryCopy]) -> None:
        pages.append([copy.entry_id for copy in page])
        if len(pages) == 2:
            raise RuntimeError("the process ends here")
        await account(tx, known, page)

    monkeypatch.setattr(enlist, "_account", failing)
    async with running_pop(tmp_path / "data", environ, network=Network()) as pop:
        await enlisted(pop)
        assert pages[:2] == [["e0", "e1"], ["e2", "e3"]]
        await pop.check()
        assert await pop.depth() == 7


async def test_a_write_while_enlisting_is_not_undone(tmp_path: Path, database_url: str) -> None:
    await written_while_off(tmp_path, database_url)
    environ = {**primary_settings(), "CLAVITOR_DATABASE_URL": database_url}
    async with running_pop(tmp_path / "data", environ, network=Network()) as pop:
        newer = await pop.put("e3", b"newer")
        await enlisted(pop)
        assert (await pop.versions())["e3"].rev == newer.rev
        await pop.check()


async def test_a_pause_of_replication_is_noticed(tmp_path: Path, database_url: str) -> None:
    environ = {**primary_settings(), "CLAVITOR_DATABASE_URL": database_url}
    async with running_pop(tmp_path / "data", environ, network=Network()) as pop:
        await pop.put("a", b"one")
        await pop.put("b", b"one")
    async with running_pop(tmp_path / "data", {"CLAVITOR_DATABASE_URL": database_url}) as pop:
        await pop.put("a", b"two")
        await pop.put("c", b"two")
    async with running_pop(tmp_path / "data", environ, network=Network()) as pop:
        await enlisted(pop)
        await pop.check()
        assert await pop.depth() == 3


async def test_what_a_backup_had_before_belongs_to_no_stream_and_gives_way(tmp_path: Path) -> None:
    async with fresh_database("sqlite", tmp_path, "backup") as url:
        await written_while_off(tmp_path, url)
        environ = {**backup_settings(), "CLAVITOR_DATABASE_URL": url}
        async with running_pop(tmp_path / "alone", environ, network=Network()) as pop:
            await enlisted(pop)
            assert {version.epoch for version in (await pop.versions()).values()} == {0}
            assert await queue.depth(pop.host.db) == 0
            await pop.check()
        async with pair(tmp_path, backup_url=url) as pops:
            await pops.primary.put("e3", b"the primary's")
            await pops.primary.put("new", b"the primary's")
            await until(pops.sent)
            assert (await pops.backup.versions())["e3"].epoch == 1
            await pops.backup.check()


async def enlisted(pop: Pop) -> None:
    async def done() -> bool:
        return (await state.required(pop.host.db)).enlisted

    await until(done)
