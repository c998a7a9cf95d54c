"""Fixtures of the replication tests: databases of each kind, one POP, and a pair of them in each mixture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clavitor_commercial_replication_testing.apps import (
    Pair,
    Pop,
    fresh_database,
    pair,
    primary_settings,
    running_pop,
)
from clavitor_commercial_replication_testing.clocks import QuickClock
from clavitor_commercial_replication_testing.network import Network


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind."""
    async with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
async def lone_primary(tmp_path: Path, database_url: str) -> AsyncIterator[Pop]:
    """A started primary on each kind of database, whose backup nobody can reach."""
    environ = {**primary_settings(), "CLAVITOR_DATABASE_URL": database_url}
    async with running_pop(tmp_path / "data", environ, network=Network()) as pop:
        yield pop


@pytest.fixture(params=["sqlite-sqlite", "postgresql-postgresql", "sqlite-postgresql", "postgresql-sqlite"])
async def pops(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """A primary and its backup, on every mixture of databases."""
    first, second = request.param.split("-")
    async with (
        fresh_database(first, tmp_path, "one") as one,
        fresh_database(second, tmp_path, "two") as two,
        pair(tmp_path, primary_url=one, backup_url=two) as made,
    ):
        yield made


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
async def quick_pops(tmp_path: Path, clock: QuickClock) -> AsyncIterator[Pair]:
    """A primary and its backup on SQLite, whose pauses are short: for what no database can change."""
    async with pair(tmp_path, clock=clock) as made:
        yield made
