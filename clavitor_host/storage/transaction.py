"""One open transaction, the same on either database."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from loguru import logger

from clavitor_host.storage.compile import Bound, Query, Row, Values
from clavitor_host.storage.errors import OutcomeUnknown, TransactionFailed
from clavitor_host.storage.point import PointRead
from clavitor_host.storage.shield import uninterrupted

if TYPE_CHECKING:
    from clavitor_host.storage.database import Database
    from clavitor_host.storage.engine import DialectName, Session

AfterCommit = Callable[[], Awaitable[None] | None]
BeforeCommit = Callable[["Transaction", Sequence[Any]], Awaitable[None]]
Deferred = tuple[sa.Table, tuple[str, ...], tuple[str, ...], tuple[str, ...]]

OPEN: ContextVar[tuple[Transaction, ...]] = ContextVar("clavitor_open_transactions", default=())
"""The open transactions of this task. A child task starts with a copy, so it sees its parent's."""


class Transaction:
    """What `Database.transaction()` gives. After a failed statement it can only roll back, as on PostgreSQL;
    a statement that may fail belongs into `savepoint()`."""

    def __init__(self, db: Database, session: Session) -> None:
        self.db = db
        self.dialect: DialectName = db.dialect
        self.closed = False
        self.committed = False
        self._session = session
        self._compiler = db.engine.compiler
        self._setwise = db.engine.setwise
        self._deferred: list[tuple[Deferred, Mapping[str, Any]]] = []
        self._before_commit: list[tuple[BeforeCommit, Any]] = []
        self._after_commit: list[AfterCommit] = []
        self._after_end: list[AfterCommit] = []
        self._in_doubt: list[Callable[[], None]] = []
        self._failure: BaseException | None = None
        self._savepoints = 0

    async def fetch_all(self, query: Query, values: Values = None) -> list[Row]:
        """Return every row of a query. `values`: see `Compiler.bind`."""
        return await self._fetch(self._compiler.bind(query, values))

    async def fetch_one(self, query: Query, values: Values = None) -> Row | None:
        """Return the first row of a query, or None."""
        rows = await self._fetch(self._compiler.bind(query, values))
        return rows[0] if rows else None

    async def fetch_val(self, query: Query, values: Values = None) -> Any:
        """Return the first column of the first row of a query, or None."""
        rows = await self._fetch(self._compiler.bind(query, values))
        return next(iter(rows[0].values())) if rows else None

    async def execute(self, query: Query, values: Values = None) -> int:
        """Run a statement and return how many rows it affected."""
        bound = self._compiler.bind(query, values)
        self._check()
        try:
            return await self._session.execute(bound)
        except BaseException as error:
            self._failure = error
            raise

    async def point_read(self, statement: PointRead, *args: Any) -> tuple[Any, ...] | None:
        """Return one row of a prepared read, as this transaction sees it."""
        bound, given = statement.bind(self._compiler, args)
        rows = await self._fetch(Bound(bound.sql, given, bound.columns, bound.processors))
        return tuple(rows[0].values()) if rows else None

    async def insert_many(
        self,
        table: sa.Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        upsert_on: Sequence[str] = (),
        update: Sequence[str] = (),
    ) -> None:
        """Insert rows by one statement. All have the columns of the first.

        `upsert_on`: the unique columns by which an existing row is found; `update`: the columns it then takes from
        the new row (none: it is left as it is).
        """
        if rows:
            await self._insert((table, tuple(rows[0]), tuple(upsert_on), tuple(update)), rows)

    async def fetch_by_keys(
        self, table: sa.Table, columns: Sequence[str], key: str, values: Sequence[Any]
    ) -> list[Row]:
        """Return the rows whose column `key` is one of `values`, in no particular order, by one statement."""
        if not values:
            return []
        return await self._fetch(self._setwise.lookup(table, tuple(columns), key, values))

    def defer(
        self,
        table: sa.Table,
        row: Mapping[str, Any],
        *,
        upsert_on: Sequence[str] = (),
        update: Sequence[str] = (),
    ) -> None:
        """Have `row` written by one `insert_many` with all others of its kind, just before the commit.

        Reads of this transaction do not see it before. Its errors come out of the commit.
        """
        self._deferred.append(((table, tuple(row), tuple(upsert_on), tuple(update)), row))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo what happens inside when it raises (deferred rows and callbacks too), and stay usable."""
        self._savepoints += 1
        name = f"clavitor_{self._savepoints}"
        await self.execute(f"SAVEPOINT {name}")
        waiting: tuple[list[Any], ...] = (self._deferred, self._before_commit, self._after_commit)
        lengths = [len(items) for items in waiting]
        try:
            yield
            await self.execute(f"RELEASE SAVEPOINT {name}")
        except BaseException:
            for items, length in zip(waiting, lengths, strict=True):
                del items[length:]
            if not self.closed:
                self._failure = None
                await self.execute(f"ROLLBACK TO SAVEPOINT {name}")
                await self.execute(f"RELEASE SAVEPOINT {name}")
            raise

    async def lock(self, name: str) -> None:
        """Wait until no other transaction holds the lock `name`; it is held to the end of this one.

        PostgreSQL: an advisory lock, taken by a statement of its own, so that the next statement sees what its
        last holder committed (caps depend on it). SQLite has one writer at a time anyway.
        """
        if self.dialect == "postgresql":
            await self._fetch(Bound("SELECT pg_advisory_xact_lock($1)", (advisory_key(name),)))

    def before_commit(self, work: BeforeCommit, item: Any) -> None:
        """Have `work(tx, items)` awaited once, last of all before the commit, with the items of every call that
        names the same `work`, in order. Its errors come out of the commit."""
        self._before_commit.append((work, item))

    def after_commit(self, callback: AfterCommit) -> None:
        """Run `callback` once this transaction is committed; never when it is not. Its errors are logged."""
        self._after_commit.append(callback)

    def after_end(self, callback: AfterCommit) -> None:
        """Run `callback` once this transaction has ended, committed or not, after `after_commit`: for what must be
        recorded either way, in a transaction of its own. No savepoint undoes it. Its errors are logged."""
        self._after_end.append(callback)

    def in_doubt(self, callback: Callable[[], None]) -> None:
        """Run `callback`, which must not raise, when the commit ends as `OutcomeUnknown`."""
        self._in_doubt.append(callback)

    async def _fetch(self, bound: Bound) -> list[Row]:
        self._check()
        try:
            return await self._session.fetch(bound)
        except BaseException as error:
            self._failure = error
            raise

    async def _insert(self, shape: Deferred, rows: Sequence[Mapping[str, Any]]) -> None:
        self._check()
        try:
            await self._session.insert(self._setwise.insert(*shape), rows)
        except BaseException as error:
            self._failure = error
            raise

    def _check(self) -> None:
        if self.closed:
            raise RuntimeError("the transaction has ended")
        if self._failure is not None:
            raise TransactionFailed(
                "A statement of this transaction failed, so it can only roll back; use tx.savepoint()."
            ) from self._failure

    async def flush(self) -> None:
        """Write the deferred rows: one statement for each kind, kinds in the order they first came. Then do what
        waits for the commit, and again what that has left to be done."""
        while self._deferred or self._before_commit:
            kinds: dict[Deferred, list[Mapping[str, Any]]] = {}
            for shape, row in self._deferred:
                kinds.setdefault(shape, []).append(row)
            self._deferred.clear()
            for shape, rows in kinds.items():
                await self._insert(shape, rows)
            works: dict[BeforeCommit, list[Any]] = {}
            for work, item in self._before_commit:
                works.setdefault(work, []).append(item)
            self._before_commit.clear()
            for work, items in works.items():
                await work(self, items)

    async def commit(self) -> None:
        """Write what is deferred and commit. For `Database` and `GroupCommitWriter` only."""
        try:
            self._check()
            await self.flush()
        except BaseException:
            await self.rollback()
            raise
        self.closed = True
        await uninterrupted(self._commit())

    async def _commit(self) -> None:
        try:
            await self._session.commit()
        except OutcomeUnknown:
            for callback in self._in_doubt:
                callback()
            raise
        self.committed = True

    async def rollback(self) -> None:
        """Roll back. For `Database` and `GroupCommitWriter` only."""
        self.closed = True
        await self._session.rollback()

    def run_callbacks(self) -> list[Awaitable[None]]:
        """Call what waits for the end, in order, and return what there is still to await."""
        waiting: list[Awaitable[None]] = []
        for callback in (*(self._after_commit if self.committed else ()), *self._after_end):
            try:
                outcome = callback()
            except Exception:  # noqa: BLE001 - the transaction has ended, whatever they do
                logger.exception("A callback after a transaction failed")
            else:
                if inspect.isawaitable(outcome):
                    waiting.append(outcome)
        return waiting


def advisory_key(name: str) -> int:
    """Return the number by which PostgreSQL knows the lock `name`."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big", signed=True)


@contextmanager
def entered(tx: Transaction) -> Iterator[None]:
    """Make `tx` the open transaction of this task, so that `db.fetch_…` reads through it."""
    outer = OPEN.get()
    OPEN.set((*outer, tx))
    try:
        yield
    finally:
        OPEN.set(outer)


async def await_callbacks(waiting: Sequence[Awaitable[None]]) -> None:
    """Await each in turn and log its error."""
    for awaitable in waiting:
        try:
            await awaitable
        except Exception:  # noqa: BLE001 - the transaction has ended, whatever they do
            logger.exception("A callback after a transaction failed")
