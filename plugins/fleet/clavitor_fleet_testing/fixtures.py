"""Fixtures of the fleet's tests: an empty database of each kind, a clock to move, servers to start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from clavitor_licensing_testing.server import FrozenClock

from clavitor_fleet_testing.server import Server, Start, fresh_database, servers


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
async def start(tmp_path: Path, database_url: str, clock: FrozenClock) -> AsyncIterator[Start]:
    """Start servers on each kind of database."""
    async with servers(tmp_path, database_url, clock) as starting:
        yield starting


@pytest.fixture
async def quick_start(tmp_path: Path, clock: FrozenClock) -> AsyncIterator[Start]:
    """Start servers on SQLite alone: for what no database can change."""
    async with servers(tmp_path, f"sqlite:///{tmp_path}/vault.db", clock) as starting:
        yield starting


@pytest.fixture
async def fleet(start: Start) -> Server:
    """A started app with the fleet and without caps."""
    return await start()


@pytest.fixture(scope="session")
def chdb_folder() -> Iterator[Path]:
    """The folder of the one embedded ClickHouse that a process can have open."""
    from clavitor_fleet_testing.clickhouse import embedded

    with embedded() as folder:
        yield folder
