"""Fixtures of the fault tests: real processes, real databases, real faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.testing.postgres import PostgresServer, missing
from clavitor_host.testing.process import ServerProcess

Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that end with the test. `name`: its folder; `start=False`: not yet."""
    with ExitStack() as stack:

        def make(*, name: str = "server", start: bool = True, **options: Any) -> ServerProcess:
            server = ServerProcess(tmp_path / name, **options)
            stack.callback(server.end)
            return server.start() if start else server

        yield make


@pytest.fixture
async def postgres_url() -> AsyncIterator[str]:
    """A fresh database on the session's PostgreSQL."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    async with PostgresServer.shared().database() as url:
        yield url
