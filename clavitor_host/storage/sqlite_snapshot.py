"""A read transaction on one of SQLite's readers: it sees one moment, waits for no writer, holds none up."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from databases.core import Connection

from clavitor_host.storage.compile import Bound, Row
from clavitor_host.storage.connections import KeptConnection
from clavitor_host.storage.errors import reraise
from clavitor_host.storage.setwise import Insert
from clavitor_host.storage.shield import uninterrupted

Reader = tuple[Connection, KeptConnection]


class SnapshotSession:
    """One read transaction. Ends with `rollback`, or `commit`, which is the same.

    release: takes the reader back; its second argument is the error after which the reader may be broken.
    """

    def __init__(self, reader: Reader, release: Callable[[Reader, BaseException | None], Any]) -> None:
        self._reader = reader
        self._connection, self._kept = reader
        self._release = release
        self._error: BaseException | None = None

    async def begin(self) -> None:
        """Open it. Gives the reader back when that fails."""
        try:
            await self._in_thread(_begin)
        except BaseException:
            await uninterrupted(self._end())
            raise

    async def fetch(self, statement: Bound) -> list[Row]:
        try:
            rows: list[Row] = await self._connection.fetch_all(statement)  # type: ignore[arg-type, assignment]
        except sqlite3.Error as error:
            self._error = error
            reraise(error)
        except BaseException:  # cancelled: the roll-back queues in the same thread, behind the statement
            self._kept.sqlite.interrupt()
            raise
        return rows

    async def execute(self, statement: Bound) -> int:
        await self.fetch(statement)  # a savepoint; a write is refused by the connection
        return 0

    async def insert(self, insert: Insert, rows: Sequence[Any]) -> NoReturn:
        raise RuntimeError("a snapshot only reads")

    async def commit(self) -> None:
        await uninterrupted(self._end())

    async def rollback(self) -> None:
        await uninterrupted(self._end())

    async def _end(self) -> None:
        try:
            await self._kept.in_thread(_rollback, self._kept.sqlite)
        except sqlite3.Error as error:
            self._error = error
        finally:
            await self._release(self._reader, self._error)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], None]) -> None:
        try:
            await self._kept.in_thread(work, self._kept.sqlite)
        except sqlite3.Error as error:
            self._error = error
            reraise(error)


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
