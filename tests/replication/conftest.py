"""Fixtures of the replication tests: two POPs as real processes, on either database."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.testing.postgres import PostgresServer, missing
from tests.bundles.conftest import built, tree
from tests.replication.pair import Pair

__all__ = ["built", "tree"]

Two = Callable[..., Pair]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    """Make pairs that end with the test, started unless `start=False`."""
    with ExitStack() as stack:

        def make(*, start: bool = True, **options: Any) -> Pair:
            pair = stack.enter_context(Pair(tmp_path, **options))
            return pair.start() if start else pair

        yield make


@pytest.fixture
async def postgres_urls() -> AsyncIterator[list[str]]:
    """Two fresh databases on the session's PostgreSQL."""
    if reason := missing():
        pytest.skip(reason)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresServer.shared().database()) for _ in range(2)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB, which `mount -o remount,size=…` makes larger."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a full disk needs root and mount(8): it is a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
