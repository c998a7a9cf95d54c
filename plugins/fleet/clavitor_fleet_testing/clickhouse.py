"""ClickHouse for tests: embedded in the test's process, or served over HTTP by a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from clavitor_fleet.telemetry.clickhouse_store import ClickHouseStore

if TYPE_CHECKING:
    from clavitor_licensing_testing.server import FrozenClock

    from clavitor_host.api import Host

PASSWORD = "wrong horse"


@contextmanager
def embedded() -> Iterator[Path]:
    """Give the folder of an embedded ClickHouse, open as long as this lasts.

    A process can have one open at a time, so all tests share it.
    """
    from clickhouse_connect import get_client

    with _folder() as folder:
        client = get_client(dsn=f"chdb://{folder}")
        yield folder
        client.close()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="clavitor-chdb-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """Give the URL of an empty database."""
    name = f"test_{uuid.uuid4().hex}"
    yield f"chdb://{folder}?database={name}"
    from clickhouse_connect import get_client

    client = get_client(dsn=f"chdb://{folder}")
    client.command(f"DROP DATABASE IF EXISTS {name}")
    client.close()


class Served:
    """A ClickHouse over HTTP that can be stopped and started again; it keeps what it has."""

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        self._folder = folder
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        scheme = "clickhouses" if self._certificate else "clickhouse"
        return f"{scheme}://agent:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/fleet"

    def start(self, **environ: str) -> None:
        """Start it; it answers when this returns. environ: `DIE_AFTER_INSERT` has it end without an answer once an
        insert is done."""
        program = [sys.executable, "-m", "clavitor_fleet_testing.clickhouse_http", str(self._folder), str(self.port)]
        program += [str(self._certificate)] if self._certificate else []
        path = os.pathsep.join(sys.path)
        self._process = subprocess.Popen(program, env={**os.environ, "PYTHONPATH": path, **environ})
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "the embedded ClickHouse did not start"
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_dead(self) -> None:
        """Return once it has ended by itself."""
        assert self._process is not None
        self._process.wait(60)
        self._process = None


@contextmanager
def served(certificate: Path | None = None) -> Iterator[Served]:
    """Give a ClickHouse over HTTP, not started yet. certificate: a PEM file with its key, for TLS."""
    with _folder() as folder:
        server = Served(folder, certificate)
        try:
            yield server
        finally:
            server.stop()


def rows_of(client: Any, table: str) -> int:
    """Return how many rows are on the disk."""
    return int(client.command(f"SELECT count() FROM {table}"))


def store(url: str, clock: FrozenClock) -> ClickHouseStore:
    """Return a store, not started yet. It needs nothing of a host but the clock."""
    return ClickHouseStore(cast("Host", SimpleNamespace(clock=clock)), url)
