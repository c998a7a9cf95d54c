"""The one way to the database: SQLite or PostgreSQL behind the same calls, over `databases`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from clavitor_host.errors import StartError
from clavitor_host.storage.compile import Query, Row, Values
from clavitor_host.storage.engine import DialectName, Engine
from clavitor_host.storage.point import PointRead
from clavitor_host.storage.transaction import (
    OPEN,
    Transaction,
    await_callbacks,
    entered,
)

__all__ = ["Database", "PointRead", "Row", "Transaction", "display_url", "sqlite_path", "sqlite_url"]


class Database:
    """Connections to one database.

    `url`: `sqlite:///absolute/path/vault.db` or `postgresql://user:password@host/name` with libpq's options.
    `readers`: SQLite connections for reading; `pool_size`: PostgreSQL connections; `busy_timeout`: the longest wait
    for a lock or a connection, in seconds. Raises `StartError` for another kind of URL.
    """

    def __init__(self, url: str, *, readers: int = 4, pool_size: int = 10, busy_timeout: float = 5.0) -> None:
        self.url = url
        self.engine: Engine = _engine(url, readers, pool_size, busy_timeout)
        self.dialect: DialectName = self.engine.dialect

    async def open(self) -> None:
        """Connect. Raises `StartError`: one line saying what is wrong and what to do."""
        await self.engine.open()

    async def close(self) -> None:
        """Disconnect, after the transaction that is open. May be called more than once."""
        await self.engine.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Open a transaction; commit at the end, roll back when an exception passes.

        SQLite: `BEGIN IMMEDIATE`, one at a time in order of arrival. PostgreSQL: READ COMMITTED. A cancelled task
        rolls back; once the commit has begun it is carried through. Raises `StorageUnavailable` (`OutcomeUnknown`
        from a commit whose connection broke), and `RuntimeError` inside another transaction of this task.
        """
        tx = await self.begin()
        try:
            try:
                with entered(tx):
                    yield tx
            except BaseException:
                await tx.rollback()
                raise
            await tx.commit()
        finally:
            await await_callbacks(tx.run_callbacks())

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """Open a transaction that only reads: every query of it sees the same moment.

        It waits for no writer, of this process or another, and holds none up; a write fails. SQLite: on one of the
        readers. PostgreSQL: REPEATABLE READ, READ ONLY. Raises `StorageUnavailable`, and `RuntimeError` inside another
        transaction of this task.
        """
        self._refuse_nesting()
        tx = Transaction(self, await self.engine.snapshot())
        try:
            with entered(tx):
                yield tx
        finally:
            await tx.rollback()
            await await_callbacks(tx.run_callbacks())

    async def begin(self, *, batch: bool = False) -> Transaction:
        """Open a transaction to be ended by hand. For `transaction()` and the group-commit writer."""
        self._refuse_nesting()
        return Transaction(self, await self.engine.begin(batch=batch))

    def _refuse_nesting(self) -> None:
        if self.current() is not None:
            raise RuntimeError("a transaction is open in this task: pass its `tx` on, or use tx.savepoint()")

    def current(self) -> Transaction | None:
        """Return the open transaction of this task or of the task that started it, if any."""
        for tx in reversed(OPEN.get()):
            if tx.db is self and not tx.closed:
                return tx
        return None

    async def fetch_all(self, query: Query, values: Values = None) -> list[Row]:
        """Return every row of a query; inside an open transaction it reads through that.

        `values`: bind parameters by name (of an insert or update construct also column values). An insert, update
        or delete construct with RETURNING runs in a transaction of its own.
        """
        if (tx := self.current()) is not None:
            return await tx.fetch_all(query, values)
        if getattr(query, "is_dml", False):
            async with self.transaction() as tx:
                return await tx.fetch_all(query, values)
        return await self.engine.fetch(self.engine.compiler.bind(query, values))

    async def fetch_one(self, query: Query, values: Values = None) -> Row | None:
        """Return the first row of a query, or None."""
        rows = await self.fetch_all(query, values)
        return rows[0] if rows else None

    async def fetch_val(self, query: Query, values: Values = None) -> Any:
        """Return the first column of the first row of a query, or None."""
        rows = await self.fetch_all(query, values)
        return next(iter(rows[0].values())) if rows else None

    async def execute(self, query: Query, values: Values = None) -> int:
        """Run a statement in a transaction of its own (or the open one); return the affected rows."""
        if (tx := self.current()) is not None:
            return await tx.execute(query, values)
        async with self.transaction() as tx:
            return await tx.execute(query, values)

    async def point_read(self, statement: PointRead, *args: Any) -> tuple[Any, ...] | None:
        """Return one row of a hot read, or None. SQLite answers on the event loop, without a thread."""
        if OPEN.get() and (tx := self.current()) is not None:
            return await tx.point_read(statement, *args)
        bound, given = statement.bind(self.engine.compiler, args)
        row = await self.engine.point(bound, given)
        return None if row is None else bound.convert(row)

    async def ping(self) -> None:
        """Raise `StorageUnavailable` when the database cannot be used."""
        await self.engine.ping()


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"sqlite://{quote(str(path.absolute()))}"


def sqlite_path(url: str) -> Path:
    """Return the file of a `sqlite:` URL. Three slashes or four: the path is absolute. Raises `StartError`."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path.strip("/") == "" or parts.query:
        raise StartError(f"{url} is not usable: write sqlite:///absolute/path/vault.db.")
    return Path("/" + path.lstrip("/"))


def display_url(url: str) -> str:
    """Return `url` without its password, for messages and logs."""
    parts = urlsplit(url)
    if "password=" in parts.query:
        parts = parts._replace(query="")
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return parts.geturl()
    return parts._replace(netloc=f"{userinfo.partition(':')[0]}@{host}").geturl()


def _engine(url: str, readers: int, pool_size: int, busy_timeout: float) -> Engine:
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from clavitor_host.storage import sqlite

        return sqlite.Engine(sqlite_path(url), readers=readers, busy_timeout=busy_timeout)
    if scheme in ("postgresql", "postgres"):
        from clavitor_host.storage import postgres

        return postgres.Engine(url, pool_size=pool_size, busy_timeout=busy_timeout)
    raise StartError(
        f"A database URL starts with sqlite:/// or postgresql://, not with {scheme!r}."
        if scheme.isidentifier()
        else "The database URL is not usable: it starts with sqlite:/// or postgresql://."
    )
