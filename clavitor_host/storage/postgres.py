"""PostgreSQL: asyncpg's pool, opened and handed out through `databases`.

Beyond `databases` 0.9.0: the URL is read by asyncpg itself (so `sslmode` counts), waiting for a connection ends, a
connection always goes back to the pool, and a COMMIT that the server turned into a ROLLBACK is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal, cast

import asyncpg  # type: ignore[import-untyped]
from databases import Database as Databases
from databases.backends.postgres import PostgresBackend, PostgresConnection
from databases.core import Connection, DatabaseURL
from sqlalchemy import types
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from clavitor_host.errors import StartError
from clavitor_host.storage.compile import Bound, Compiler, Row
from clavitor_host.storage.errors import (
    OutcomeUnknown,
    busy,
    connection_is_lost,
    reraise,
    unavailable,
)
from clavitor_host.storage.postgres_listen import listen
from clavitor_host.storage.postgres_start import explain
from clavitor_host.storage.setwise import Insert, Setwise
from clavitor_host.storage.shield import uninterrupted

CONNECT_TIMEOUT = 10.0
STATEMENT_TIMEOUT = 60.0
"""Seconds after which a server that does not answer counts as gone."""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_DURABLE = "; SET LOCAL synchronous_commit TO on"
_FACTS = (
    "SELECT current_setting('server_encoding') AS encoding, current_setting('synchronous_commit') AS durable,"
    " pg_is_in_recovery() AS standby"
)


class _AsItComes:
    """A number as asyncpg gives it; SQLAlchemy's own asks for a type code that only a cursor has."""

    render_bind_cast = True
    asdecimal: bool

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return None if self.asdecimal else lambda value: None if value is None else float(value)

    def bind_processor(self, dialect: Any) -> Any:
        return None


class _Numeric(_AsItComes, types.Numeric[Any]):
    pass


class _Float(_AsItComes, types.Float[Any]):
    pass


def _whole(value: Any) -> Any:
    """A sum of bigints is numeric in PostgreSQL; as a column of integers it is an integer here."""
    return int(value) if type(value) is Decimal else value


class _BigInteger(types.BigInteger):
    render_bind_cast = True

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return _whole


class _Dialect(PGDialect_asyncpg):
    supports_statement_cache = True
    supports_native_json_serialization = False
    supports_native_json_deserialization = False
    colspecs = {  # noqa: RUF012 - as the base class has it
        **PGDialect_asyncpg.colspecs,
        types.Numeric: _Numeric,
        types.Float: _Float,
        types.BigInteger: _BigInteger,
    }


class KeptConnection(PostgresConnection):
    """A connection of `databases` that runs our compiled statements."""

    async def acquire(self) -> None:
        """Take a connection from the pool, waiting no longer than the backend's `acquire_timeout`."""
        backend = cast("Backend", self._database)
        if backend._pool is None:
            raise unavailable("The database is closed.")
        self._connection = await backend._pool.acquire(timeout=backend.acquire_timeout)

    async def fetch_all(self, query: Any) -> Any:
        """Return the rows of a `Bound`."""
        return await self.raw_connection.fetch(query.sql, *query.args)

    async def execute(self, query: Any) -> Any:
        """Run a `Bound` and return the server's command tag, such as `UPDATE 3`."""
        return await self.raw_connection.execute(query.sql, *query.args)


class Backend(PostgresBackend):
    """The backend that `databases` loads for `postgresql:` URLs here."""

    def __init__(self, database_url: DatabaseURL | str, *, acquire_timeout: float, **options: Any) -> None:
        super().__init__(database_url, **options)
        self.acquire_timeout = acquire_timeout

    async def connect(self) -> None:
        assert self._pool is None, "the pool is open"
        self._pool = await asyncpg.create_pool(dsn=str(self._database_url), **self._options)

    def connection(self) -> KeptConnection:
        return KeptConnection(self, self._dialect)


class Source(Databases):
    """Where connections to one database come from."""

    SUPPORTED_BACKENDS = {  # noqa: RUF012 - as the base class has it
        "postgresql": f"{__name__}:Backend",
        "postgres": f"{__name__}:Backend",
    }

    async def connect(self) -> None:
        """Open the pool. (The original logs the URL, and with it a password given as an option.)"""
        await self._backend.connect()
        self.is_connected = True

    async def disconnect(self) -> None:
        """Close the pool."""
        if self.is_connected:
            self.is_connected = False
            await self._backend.disconnect()

    def lease(self) -> Connection:
        """Return a connection object of our own, whatever task this is; entering it takes a slot of the pool."""
        return Connection(self, self._backend)

    @property
    def pool(self) -> asyncpg.Pool:
        """The driver's pool. Raises `StorageUnavailable` when it is closed."""
        pool = cast("Backend", self._backend)._pool
        if pool is None:
            raise unavailable("The database is closed.")
        return cast("asyncpg.Pool", pool)


class Engine:
    """The connections to one PostgreSQL database. `busy_timeout`: the longest wait for one, in seconds."""

    dialect: Literal["postgresql"] = "postgresql"

    def __init__(self, url: str, *, pool_size: int, busy_timeout: float) -> None:
        self.url = url
        self.busy_timeout = busy_timeout
        self.compiler = Compiler(_Dialect())  # type: ignore[no-untyped-call]
        self.setwise = Setwise(self.compiler)
        self._begin = _BEGIN
        self._source = Source(
            url,
            acquire_timeout=busy_timeout,
            min_size=0,
            max_size=pool_size,
            timeout=CONNECT_TIMEOUT,
            command_timeout=STATEMENT_TIMEOUT,
            reset=_reset,
            server_settings={"application_name": "clavitor"},
        )

    async def open(self) -> None:
        try:
            await self._source.connect()
            facts = await self._source.pool.fetchrow(_FACTS)
            if facts["encoding"] != "UTF8":
                raise StartError(f"The PostgreSQL database must have the encoding UTF8, not {facts['encoding']}.")
            if facts["standby"]:
                raise StartError("The PostgreSQL server is a read-only standby. Give the URL of the primary.")
        except StartError:
            await self.close()
            raise
        except (*DRIVER_ERRORS, ValueError) as error:
            await self.close()
            raise explain(self.url, error) from error
        if facts["durable"] == "off":
            self._begin = _BEGIN + _DURABLE

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):  # asyncpg then ends the connections that are still in use
            async with asyncio.timeout(self.busy_timeout):
                await self._source.disconnect()

    async def begin(self, *, batch: bool) -> Session:
        del batch
        return await self._open(self._begin)

    async def snapshot(self) -> Session:
        return await self._open(_SNAPSHOT)

    async def _open(self, begin: str) -> Session:
        connection = self._source.lease()
        try:
            await connection.__aenter__()
        except TimeoutError:
            raise busy("Every connection to the database is in use; try again.") from None
        except DRIVER_ERRORS as error:
            reraise(error)
        try:
            await connection.raw_connection.execute(begin)
        except DRIVER_ERRORS as error:
            await uninterrupted(_release(connection))
            reraise(error)
        except BaseException:
            await uninterrupted(_abandon(connection))
            raise
        return Session(connection)

    async def fetch(self, statement: Bound) -> list[Row]:
        connection = self._source.lease()
        try:
            async with connection:
                return await _fetch(connection, statement)
        except DRIVER_ERRORS as error:
            reraise(error)

    async def point(self, statement: Bound, args: Sequence[Any]) -> Sequence[Any] | None:
        try:
            connection = await self._source.pool.acquire(timeout=self.busy_timeout)
            try:
                row = await connection.fetchrow(statement.sql, *args)
            finally:
                await self._source.pool.release(connection)
        except DRIVER_ERRORS as error:
            reraise(error)
        return None if row is None else tuple(row)

    async def ping(self) -> None:
        await self.fetch(Bound("SELECT 1"))

    async def listen(self, channel: str, hear: Callable[[str | None], None], wanted: Callable[[], bool]) -> None:
        try:
            await listen(self.url, channel, hear, wanted, connect_timeout=CONNECT_TIMEOUT)
        except DRIVER_ERRORS as error:
            reraise(error)


class Session:
    """One transaction on a pooled connection. Ends with exactly one `commit` or `rollback`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: Bound) -> list[Row]:
        try:
            return await _fetch(self._connection, statement)
        except DRIVER_ERRORS as error:
            reraise(error)

    async def execute(self, statement: Bound) -> int:
        try:
            tag: str = await self._connection.execute(statement)  # type: ignore[arg-type]
        except DRIVER_ERRORS as error:
            reraise(error)
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def insert(self, insert: Insert, rows: Sequence[Any]) -> None:
        await self.execute(Bound(insert.sql, insert.arrays(rows)))

    async def commit(self) -> None:
        try:
            tag = await self._connection.raw_connection.execute("COMMIT")
        except DRIVER_ERRORS as error:
            if connection_is_lost(error):
                raise OutcomeUnknown from error
            reraise(error)
        finally:
            await uninterrupted(_release(self._connection))
        if tag != "COMMIT":
            raise unavailable("The database rolled the transaction back.")

    async def rollback(self) -> None:
        await uninterrupted(self._rollback())

    async def _rollback(self) -> None:
        try:
            raw = self._connection.raw_connection
            if raw.is_in_transaction():
                await raw.execute("ROLLBACK")
        except DRIVER_ERRORS as error:
            if not connection_is_lost(error):
                raise
        finally:
            await _release(self._connection)


async def _fetch(connection: Connection, statement: Bound) -> list[Row]:
    records: Any = await connection.fetch_all(statement)  # type: ignore[arg-type]
    if not records:
        return []
    return statement.rows(statement.columns or list(records[0].keys()), records)


async def _abandon(connection: Connection) -> None:
    """Give a connection back whose BEGIN was cancelled: the driver does not know whether the server has begun."""
    try:
        await connection.raw_connection.execute("ROLLBACK")
    except DRIVER_ERRORS as error:
        if not connection_is_lost(error):
            raise
    finally:
        await _release(connection)


async def _release(connection: Connection) -> None:
    """Give the connection back to the pool; a broken one is dropped there, and its error is of no use."""
    try:
        await connection.__aexit__()
    except DRIVER_ERRORS as error:
        if not connection_is_lost(error):
            raise


async def _reset(connection: asyncpg.Connection) -> None:
    """Spare the round trip of asyncpg's own reset: nothing here leaves session state behind."""
    if connection.is_in_transaction():
        await connection.reset()
