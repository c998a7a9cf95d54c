"""Work on the whole database through SQLAlchemy's own connection, in a thread: migrations, backup, restore.

It runs in one transaction: it commits when the work returns, and leaves nothing behind when it raises. Drivers,
Alembic and SQLAlchemy's engines are imported only here and only when there is such work.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from clavitor_host.errors import StartError
from clavitor_host.storage.database import sqlite_path
from clavitor_host.storage.shield import uninterrupted

T = TypeVar("T")
Mode = Literal["write", "read"]

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another process that migrates the same database."""


async def run(url: str, work: Callable[[sa.Connection], T], *, mode: Mode = "write") -> T:
    """Return `work(connection)`, run in a thread within one transaction; `work` must not end it.

    `write`: SQLite BEGIN IMMEDIATE with foreign keys off until the commit, when they are checked; PostgreSQL READ
    COMMITTED. `read`: one consistent snapshot. Raises `StartError` when the database cannot be reached.
    """
    function = _run_sqlite
    if not url.startswith("sqlite:"):
        # loaded here and not in the thread: while half of sqlalchemy.orm is there, statements of other tasks fail
        import sqlalchemy.ext.asyncio  # noqa: F401

        function = _run_postgresql
    return await uninterrupted(asyncio.to_thread(function, url, work, mode))


def sqlite_connection(path: Path) -> sqlite3.Connection:
    """Open a SQLite file for maintenance, outside any transaction."""
    from clavitor_host.storage.connections import WriterConnection

    connection = WriterConnection(path, timeout=LOCK_TIMEOUT, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = OFF")
    return connection


def _run_sqlite(url: str, work: Callable[[sa.Connection], T], mode: Mode) -> T:
    from clavitor_host.storage.sqlite_start import explain, prepare

    path = sqlite_path(url)
    prepare(path)
    try:
        raw = sqlite_connection(path)
    except sqlite3.Error as error:
        raise explain(path, error) from error
    engine = sa.create_engine("sqlite://", creator=lambda: raw, poolclass=sa.StaticPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")
            result = work(connection)
            if mode == "write":
                _check_foreign_keys(connection)
            connection.commit()
            return result
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error) and "locked" in str(error.orig):
            raise explain(path, error.orig) from error
        raise
    finally:
        engine.dispose()
        raw.close()


def _check_foreign_keys(connection: sa.Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchone()
    if broken is not None:
        raise StartError(f"A row of table {broken[0]} refers to a row of {broken[2]} that does not exist.")


def _run_postgresql(url: str, work: Callable[[sa.Connection], T], mode: Mode) -> T:
    return asyncio.run(_run_asyncpg(url, work, mode))


async def _run_asyncpg(url: str, work: Callable[[sa.Connection], T], mode: Mode) -> T:
    import asyncpg  # type: ignore[import-untyped]
    from sqlalchemy.ext.asyncio import create_async_engine

    from clavitor_host.storage.postgres import DRIVER_ERRORS
    from clavitor_host.storage.postgres_start import explain

    async def connect() -> Any:
        try:
            return await asyncpg.connect(dsn=url, server_settings={"application_name": "clavitor maintenance"})
        except (*DRIVER_ERRORS, ValueError) as error:
            raise explain(url, error) from error

    isolation = "READ COMMITTED" if mode == "write" else "REPEATABLE READ"
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, poolclass=sa.NullPool, isolation_level=isolation
    )
    async with engine.connect() as connection:
        result = await connection.run_sync(work)
        await connection.commit()
        return result
