"""SQLite: one long-lived writer, a few long-lived readers, and one reader on the event loop for point reads.

A transaction takes the in-process lock in order of arrival, then `BEGIN IMMEDIATE`. Another process may hold the
file's write lock: the wait for it, up to the busy time-out, happens on the event loop without blocking it.

A batch of the group-commit writer runs its statements on the event loop and only COMMIT, the fsync, in the thread:
one hop a batch. A thread that takes and drops the GIL once a row, as sqlite3 does, starves beside a busy loop.
Batches that carry many bytes write from the thread as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from databases.core import Connection
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from clavitor_host.errors import StorageUnavailable
from clavitor_host.storage import connections
from clavitor_host.storage.compile import Bound, Compiler, Row
from clavitor_host.storage.connections import (
    KeptConnection,
    ReaderConnection,
    Source,
    WriterConnection,
)
from clavitor_host.storage.errors import (
    busy,
    reraise,
    sqlite_code,
    unavailable,
)
from clavitor_host.storage.setwise import Insert, Setwise
from clavitor_host.storage.shield import uninterrupted
from clavitor_host.storage.sqlite_snapshot import Reader, SnapshotSession
from clavitor_host.storage.sqlite_start import explain, prepare

T = TypeVar("T")

INLINE_BYTES = 256 * 1024
"""A batch that writes more text and bytes than this writes from the thread."""

WATCH_INTERVAL = 0.5
"""Seconds between looks at whether another process has committed; a look takes some microseconds."""

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.025
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SUSPECT = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Engine:
    """The connections to one SQLite file. `busy_timeout` in seconds."""

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(self, path: Path, *, readers: int, busy_timeout: float) -> None:
        self.path = path
        self.busy_timeout = busy_timeout
        dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
        dialect.supports_native_decimal = False
        self.compiler = Compiler(dialect)
        self.setwise = Setwise(self.compiler)
        self.lock = asyncio.Lock()
        options: dict[str, Any] = {"check_same_thread": False, "timeout": busy_timeout, "cached_statements": 512}
        url = f"sqlite:///{quote(str(path))}"
        self._writers = Source(url, factory=WriterConnection, **options)
        self._readers = Source(url, factory=ReaderConnection, **options)
        self._writer: tuple[Connection, KeptConnection] | None = None
        self._idle: list[Reader] = []
        self._slots = asyncio.Semaphore(readers)
        self._point: sqlite3.Connection | None = None
        self._identity: tuple[int, int] = (0, 0)
        self._closed = True

    async def open(self) -> None:
        prepare(self.path)
        try:
            self._writer = await self._writers.acquire()
            self._point = await self._writer[1].in_thread(self._open_point)
        except (sqlite3.Error, OSError) as error:
            await self.close()
            raise explain(self.path, error) from error
        self._identity = _identity(self.path)
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        waited = False
        with contextlib.suppress(TimeoutError):  # a transaction that does not end is rolled back by closing
            async with asyncio.timeout(self.busy_timeout):
                waited = await self.lock.acquire()
        opened = [*self._idle, *([self._writer] if self._writer else [])]
        self._idle, self._writer = [], None
        if self._point is not None:
            self._point.close()
            self._point = None
        for connection, _ in opened:
            await uninterrupted(connection.__aexit__())
        if waited:
            self.lock.release()

    async def begin(self, *, batch: bool) -> Session:
        deadline = time.monotonic() + self.busy_timeout
        try:
            async with asyncio.timeout(self.busy_timeout):
                await self.lock.acquire()
        except TimeoutError:
            raise busy() from None
        try:
            connection, kept = await self._usable_writer()
            await self._begin_immediate(kept.sqlite, deadline)
        except sqlite3.Error as error:
            self.lock.release()
            reraise(error)
        except BaseException:
            self.lock.release()
            raise
        return Session(self, connection, kept, batch=batch)

    async def fetch(self, statement: Bound) -> list[Row]:
        reader = await self._take_reader()
        connection, kept = reader
        failure: BaseException | None = None
        try:
            rows: list[Row] = await connection.fetch_all(statement)  # type: ignore[arg-type, assignment]
        except asyncio.CancelledError:
            kept.sqlite.interrupt()
            raise
        except sqlite3.Error as error:
            failure = error
            reraise(error)
        finally:
            await self._give_back(reader, failure)
        return rows

    async def snapshot(self) -> SnapshotSession:
        session = SnapshotSession(await self._take_reader(), self._give_back)
        await session.begin()
        return session

    async def point(self, statement: Bound, args: Sequence[Any]) -> Sequence[Any] | None:
        if self._point is None:
            raise unavailable("The database is closed.")
        try:
            row: tuple[Any, ...] | None = self._point.execute(statement.sql, args).fetchone()
        except sqlite3.Error as error:
            if sqlite_code(error) & 0xFF not in _BUSY:
                reraise(error)
            rows = await self.fetch(Bound(statement.sql, args, statement.columns))
            return tuple(rows[0].values()) if rows else None
        return row

    async def ping(self) -> None:
        self._check_identity()
        await self.fetch(Bound("SELECT count(*) FROM sqlite_schema"))

    async def listen(self, channel: str, hear: Callable[[str | None], None], wanted: Callable[[], bool]) -> None:
        """Call `hear(None)` when another process has committed, whatever it wrote: SQLite tells no more."""
        del channel
        seen: tuple[KeptConnection, int] | None = None
        while wanted():
            version = await self._foreign_version() or seen
            if version != seen:
                seen = version
                hear(None)
            await asyncio.sleep(WATCH_INTERVAL)

    async def _foreign_version(self) -> tuple[KeptConnection, int] | None:
        """Return a value that changes with every commit of another process; None when it cannot be had at once.

        `PRAGMA data_version` leaves out the commits of its own connection, and this is the only one that writes.
        """
        async with self.lock:
            try:
                _, kept = await self._usable_writer()
                with self._without_waiting(kept.sqlite):
                    (version,) = kept.sqlite.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error as error:
                if sqlite_code(error) & 0xFF in _BUSY:
                    return None
                self.mark_suspect(error)
                reraise(error)
            return kept, version

    def mark_suspect(self, error: BaseException) -> None:
        """Have the writer opened anew before its next use when `error` says that its file went wrong."""
        if isinstance(error, sqlite3.Error) and _is_suspect(error):
            self._identity = (0, 0)

    async def _take_reader(self) -> Reader:
        if self._closed:
            raise unavailable("The database is closed.")
        await self._slots.acquire()
        try:
            return self._idle.pop() if self._idle else await self._readers.acquire()
        except (sqlite3.Error, OSError) as error:
            self._slots.release()
            reraise(error)
        except BaseException:
            self._slots.release()
            raise

    async def _give_back(self, reader: Reader, failure: BaseException | None) -> None:
        """Take a reader back, and close it when the database is, or when the file went wrong."""
        try:
            suspect = isinstance(failure, sqlite3.Error) and _is_suspect(failure)
            if suspect:
                self._idle = []
            if suspect or self._closed:
                await uninterrupted(reader[0].__aexit__())
            else:
                self._idle.append(reader)
        finally:
            self._slots.release()

    async def _usable_writer(self) -> tuple[Connection, KeptConnection]:
        if self._closed:
            raise unavailable("The database is closed.")
        if self._writer is None or self._identity == (0, 0):
            await uninterrupted(self._reopen())
        self._check_identity()
        assert self._writer is not None
        return self._writer

    async def _reopen(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer[0].__aexit__()
        identity = _identity(self.path)
        self._writer = await self._writers.acquire()
        self._identity = identity

    async def _begin_immediate(self, connection: sqlite3.Connection, deadline: float) -> None:
        if connection.in_transaction:  # pragma: no cover - a session always ends its transaction
            connection.execute("ROLLBACK")
        pause = _FIRST_PAUSE
        while True:
            try:
                with self._without_waiting(connection):
                    connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if sqlite_code(error) & 0xFF not in _BUSY or time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    @contextlib.contextmanager
    def _without_waiting(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Have statements on the event loop fail at once where they would wait for another process."""
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(self.busy_timeout * 1000)}")

    def _check_identity(self) -> None:
        if _identity(self.path) != self._identity:
            raise unavailable("The database file was removed or replaced while the server ran; restart the server.")

    def _open_point(self) -> sqlite3.Connection:
        """Open the inline reader. Its busy time-out is 0: it must never block the event loop."""
        uri = f"file:{quote(str(self.path))}?mode=ro"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=0, cached_statements=512
        )
        for pragma in connections.PRAGMAS[4:]:
            connection.execute(pragma)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return connection


class Session:
    """One transaction on the writer. Ends with exactly one `commit` or `rollback`."""

    def __init__(self, engine: Engine, connection: Connection, kept: KeptConnection, *, batch: bool) -> None:
        self._engine = engine
        self._connection = connection
        self._kept = kept
        self._sqlite = kept.sqlite
        self._inline = batch
        self._bytes = 0

    async def fetch(self, statement: Bound) -> list[Row]:
        if self._inline:
            return self._on_loop(connections.fetch, statement)
        self._require_open()
        rows: list[Row] = await self._hop(self._connection.fetch_all(statement))  # type: ignore[arg-type]
        return rows

    async def execute(self, statement: Bound) -> int:
        if self._inline:
            return self._on_loop(connections.execute, statement)
        self._require_open()
        affected: int = await self._hop(self._connection.execute(statement))  # type: ignore[arg-type]
        return affected

    async def insert(self, insert: Insert, rows: Sequence[Any]) -> None:
        tuples = insert.tuples(rows)
        if self._inline:
            self._bytes += sum([len(v) for row in tuples for v in row if type(v) is str or type(v) is bytes])
            self._inline = self._bytes <= INLINE_BYTES
        if self._inline:
            self._on_loop(sqlite3.Connection.executemany, insert.sql, tuples)
        else:
            self._require_open()
            await self._hop(self._kept.in_thread(self._sqlite.executemany, insert.sql, tuples))

    async def commit(self) -> None:
        await self._end("COMMIT")

    async def rollback(self) -> None:
        await uninterrupted(self._end("ROLLBACK"))

    async def _end(self, how: str) -> None:
        try:
            if how == "COMMIT":
                self._require_open()
            await self._kept.in_thread(_finish, self._sqlite, how)
        except sqlite3.Error as error:
            self._engine.mark_suspect(error)
            if how == "COMMIT":
                reraise(error)
        finally:
            self._engine.lock.release()

    def _on_loop(self, function: Callable[..., T], *args: Any) -> T:
        self._require_open()
        try:
            return function(self._sqlite, *args)
        except sqlite3.Error as error:
            self._engine.mark_suspect(error)
            reraise(error)

    async def _hop(self, work: Any) -> Any:
        """Await a call in the connection's thread. A cancelled caller leaves at once: what it does next, and at the
        latest the rollback, queues behind the call in the same thread."""
        try:
            return await work
        except sqlite3.Error as error:
            self._engine.mark_suspect(error)
            reraise(error)

    def _require_open(self) -> None:
        """SQLite rolls back on its own when the disk is full or fails; what came next would commit by itself."""
        if not self._sqlite.in_transaction:
            raise unavailable("The database rolled the transaction back.")


def _finish(connection: sqlite3.Connection, how: str) -> None:
    """Run in the thread: end the transaction, and never leave it open."""
    try:
        if connection.in_transaction:
            connection.execute(how)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise StorageUnavailable(f"The database file cannot be reached: {error.strerror}.") from error
    return status.st_dev, status.st_ino


def _is_suspect(error: sqlite3.Error) -> bool:
    return sqlite_code(error) & 0xFF in _SUSPECT
