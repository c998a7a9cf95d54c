"""Fixtures of the licensing tests: an empty database of each kind, a clock to move, servers to start, their log."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from loguru import logger

from clavitor_host import log
from clavitor_licensing_testing.server import FrozenClock, Log, Server, Start, fresh_database, servers


@pytest.fixture
def logged() -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    collected = Log()
    log.setup("DEBUG", json_lines=True, sink=collected.sink)
    yield collected
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()


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
async def server(start: Start) -> Server:
    return await start()
