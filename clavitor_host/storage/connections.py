"""The SQLite connections that `databases` opens for us, with its traps closed.

`databases` 0.9.0 opens a connection per acquire and sets nothing on it: ours are opened once and kept, and the
connection class itself sets every PRAGMA. A statement costs one thread hop, not three, and arrives compiled.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar, cast

import aiosqlite
from databases import Database as Databases
from databases.backends.sqlite import SQLiteBackend, SQLiteConnection, SQLitePool
from databases.core import Connection, DatabaseURL

from clavitor_host.storage.compile import Bound, Row
from clavitor_host.storage.shield import uninterrupted

T = TypeVar("T")

PAGE_SIZE = 8192
"""Bytes, for a new database: rows of about 1 KB read fastest from it."""

PRAGMAS = (
    f"PRAGMA page_size = {PAGE_SIZE}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA mmap_size = 268435456",
    "PRAGMA cache_size = -16384",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA journal_size_limit = 67108864",
)


class WriterConnection(sqlite3.Connection):
    """A connection that is never without its PRAGMAs (`timeout` is the busy time-out, in seconds)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            for pragma in PRAGMAS:
                found = self.execute(pragma).fetchone()
                if "journal_mode" in pragma and found[0] != "wal":
                    raise sqlite3.OperationalError("the file system does not allow write-ahead logging")
        except BaseException:
            self.close()
            raise


class ReaderConnection(WriterConnection):
    """The same, refusing every write."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA query_only = ON")


def fetch(connection: sqlite3.Connection, statement: Bound) -> list[Row]:
    """Run a statement and return its rows (in whatever thread this is)."""
    cursor = connection.execute(statement.sql, statement.args)
    rows = cursor.fetchall()
    if not rows:
        return []
    names = statement.columns or [entry[0] for entry in cursor.description]
    return statement.rows(names, rows)


def execute(connection: sqlite3.Connection, statement: Bound) -> int:
    """Run a statement to its end and return how many rows it affected."""
    cursor = connection.execute(statement.sql, statement.args)
    if cursor.description is not None:
        cursor.fetchall()
    return max(cursor.rowcount, 0)


class KeptConnection(SQLiteConnection):
    """A connection of `databases` that runs our compiled statements."""

    @property
    def sqlite(self) -> sqlite3.Connection:
        """The driver's own connection. Use it on the event loop only while no thread call is pending."""
        return self.raw_connection._conn

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` in the connection's own thread: one hop. Calls run in the order they are made."""
        return cast("T", await self.raw_connection._execute(function, *args))  # type: ignore[no-untyped-call]

    async def fetch_all(self, query: Any) -> Any:
        """Return the rows of a `Bound`."""
        return await self.in_thread(fetch, self.sqlite, query)

    async def execute(self, query: Any) -> Any:
        """Run a `Bound`; unlike the original this returns the affected rows, not a row id."""
        return await self.in_thread(execute, self.sqlite, query)


class _Pool(SQLitePool):
    async def acquire(self) -> aiosqlite.Connection:
        connection = aiosqlite.connect(self._database, isolation_level=None, **self._options)
        connection._thread.daemon = True  # a program that dies before close() must still exit
        try:
            return await connection
        except BaseException:
            await uninterrupted(asyncio.to_thread(connection._thread.join))  # it still has to report to this loop
            raise


class Backend(SQLiteBackend):
    """The backend that `databases` loads for `sqlite:` URLs here."""

    def __init__(self, database_url: DatabaseURL | str, **options: Any) -> None:
        super().__init__(database_url, **options)
        self._pool = _Pool(self._database_url, **self._options)

    def connection(self) -> KeptConnection:
        return KeptConnection(self._pool, self._dialect)


class Source(Databases):
    """Where connections to one file come from."""

    SUPPORTED_BACKENDS = {"sqlite": f"{__name__}:Backend"}  # noqa: RUF012 - as the base class has it

    async def acquire(self) -> tuple[Connection, KeptConnection]:
        """Open one connection, to be kept; `databases`' own object and its backend's."""
        connection = Connection(self, self._backend)
        await connection.__aenter__()
        return connection, cast(KeptConnection, connection._connection)
