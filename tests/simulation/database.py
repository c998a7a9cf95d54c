"""A disk that outlives its process, and an engine for the real `Database` on it: SQLite called inline.

The file lies in memory (tmpfs), in WAL mode like the real one, so readers see what is committed while a write is
under way. Statements take no time; beginning and committing do, and other tasks run meanwhile. A crash closes the
connections: an open transaction is gone, what was committed is there, told to the client or not.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from clavitor_host.storage import connections
from clavitor_host.storage.compile import Bound, Compiler, Row
from clavitor_host.storage.errors import busy, full, reraise, unavailable
from clavitor_host.storage.setwise import Insert, Setwise

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
_DIALECT = SQLiteDialect_pysqlite(paramstyle="qmark")
_DIALECT.supports_native_decimal = False
_COMPILER = Compiler(_DIALECT)
_SETWISE = Setwise(_COMPILER)

Phase = Literal["before", "after"]


class Disk:
    """The database file of one machine.

    `full_until`: virtual time until which every commit fails. `on_commit`: called at every commit that wrote, before
    and after it is durable. `slowest`: seconds that one commit may take.
    """

    def __init__(self, path: Path, template: Path, chance: random.Random) -> None:
        self.path = path
        self.chance = chance
        self.full_until = 0.0
        self.slowest = 0.004
        self.commits = 0
        self.on_commit: Callable[[Phase, int], None] = lambda phase, number: None
        self.replace(template.read_bytes())

    def replace(self, content: bytes) -> None:
        """Put another database in place of this one. No process may have it open."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.path.write_bytes(content)

    def copy(self) -> bytes:
        """Return what is committed, as a backup of the database would have it."""
        connection = self.connect()
        try:
            return connection.serialize()
        finally:
            connection.close()

    def connect(self) -> sqlite3.Connection:
        """Open a connection, for the engine or for an observer."""
        connection = sqlite3.connect(self.path, isolation_level=None, cached_statements=512, timeout=0)
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection


class Engine:
    """What `Database` needs, for one life of a process."""

    dialect: Literal["sqlite"] = "sqlite"
    compiler = _COMPILER
    setwise = _SETWISE

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.lock = asyncio.Lock()
        self.dead = False
        self._writer: sqlite3.Connection | None = None
        self._point: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._opened: list[sqlite3.Connection] = []

    async def open(self) -> None:
        self._writer = self._connect()
        self._point = self._connect()

    async def close(self) -> None:
        async with self.lock:
            self.kill()

    def kill(self) -> None:
        """End at once, as the process does: whatever is open is rolled back, and nothing works any more."""
        self.dead = True
        for connection in self._opened:
            connection.close()
        self._opened, self._idle = [], []
        self._writer = self._point = None

    @property
    def writer(self) -> sqlite3.Connection:
        if self._writer is None:
            raise unavailable("The database is closed.")
        return self._writer

    async def begin(self, *, batch: bool) -> Session:
        try:
            async with asyncio.timeout(BUSY_TIMEOUT):
                await self.lock.acquire()
        except TimeoutError:
            raise busy() from None
        try:
            await self.pause(0.0005)
            self.writer.execute("BEGIN IMMEDIATE")
        except BaseException:
            self.lock.release()
            raise
        return Session(self, self.writer)

    async def snapshot(self) -> Snapshot:
        connection = self._take()
        connection.execute("BEGIN")
        return Snapshot(self, connection)

    async def fetch(self, statement: Bound) -> list[Row]:
        await self.pause(0.0005)
        connection = self._take()
        try:
            return connections.fetch(connection, statement)
        except sqlite3.Error as error:
            reraise(error)
        finally:
            self.give_back(connection)

    async def point(self, statement: Bound, args: Sequence[Any]) -> Sequence[Any] | None:
        if self._point is None:
            raise unavailable("The database is closed.")
        row: tuple[Any, ...] | None = self._point.execute(statement.sql, args).fetchone()
        return row

    async def ping(self) -> None:
        _ = self.writer

    async def listen(self, channel: str, hear: Callable[[str | None], None], wanted: Callable[[], bool]) -> None:
        """There is no other process."""
        await asyncio.get_running_loop().create_future()

    async def pause(self, longest: float) -> None:
        """Take some time, as a thread does."""
        await asyncio.sleep(self.disk.chance.random() * longest)

    def give_back(self, connection: sqlite3.Connection) -> None:
        if not self.dead:
            self._idle.append(connection)

    def _take(self) -> sqlite3.Connection:
        if self._writer is None:
            raise unavailable("The database is closed.")
        return self._idle.pop() if self._idle else self._connect(read_only=True)

    def _connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        if self.dead:
            raise unavailable("The database is closed.")
        connection = self.disk.connect()
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        self._opened.append(connection)
        return connection


class Session:
    """One transaction on the writer."""

    def __init__(self, engine: Engine, connection: sqlite3.Connection) -> None:
        self._engine = engine
        self._sqlite = connection
        self._before = connection.total_changes

    async def fetch(self, statement: Bound) -> list[Row]:
        return self._call(connections.fetch, statement)

    async def execute(self, statement: Bound) -> int:
        return self._call(connections.execute, statement)

    async def insert(self, insert: Insert, rows: Sequence[Any]) -> None:
        self._call(sqlite3.Connection.executemany, insert.sql, insert.tuples(rows))

    async def commit(self) -> None:
        engine, disk = self._engine, self._engine.disk
        try:
            if engine.dead:
                raise unavailable("The database is closed.")
            if self._sqlite.total_changes == self._before:
                self._sqlite.execute("COMMIT")
                return
            disk.commits += 1
            number = disk.commits
            disk.on_commit("before", number)
            await engine.pause(disk.slowest)
            if engine.dead:
                raise unavailable("The database is closed.")
            if asyncio.get_running_loop().time() < disk.full_until:
                self._sqlite.execute("ROLLBACK")
                raise full()
            self._sqlite.execute("COMMIT")
            disk.on_commit("after", number)
            await engine.pause(0.0005)
            if engine.dead:
                raise unavailable("The database is closed.")
        finally:
            if not engine.dead and self._sqlite.in_transaction:
                self._sqlite.execute("ROLLBACK")
            engine.lock.release()

    async def rollback(self) -> None:
        try:
            if not self._engine.dead and self._sqlite.in_transaction:
                self._sqlite.execute("ROLLBACK")
        finally:
            self._engine.lock.release()

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        if self._engine.dead:
            raise unavailable("The database is closed.")
        try:
            return function(self._sqlite, *args)
        except sqlite3.Error as error:
            reraise(error)


class Snapshot:
    """One reading transaction."""

    def __init__(self, engine: Engine, connection: sqlite3.Connection) -> None:
        self._engine = engine
        self._sqlite = connection

    async def fetch(self, statement: Bound) -> list[Row]:
        if self._engine.dead:
            raise unavailable("The database is closed.")
        await self._engine.pause(0.0005)
        if self._engine.dead:
            raise unavailable("The database is closed.")
        return connections.fetch(self._sqlite, statement)

    async def execute(self, statement: Bound) -> int:
        await self.fetch(statement)
        return 0

    async def insert(self, insert: Insert, rows: Sequence[Any]) -> None:
        raise RuntimeError("a snapshot only reads")

    async def commit(self) -> None:
        await self.rollback()

    async def rollback(self) -> None:
        if not self._engine.dead:
            self._sqlite.execute("ROLLBACK")
            self._engine.give_back(self._sqlite)


def remove(folder: Path) -> None:
    """Throw a folder of disks away."""
    shutil.rmtree(folder, ignore_errors=True)
