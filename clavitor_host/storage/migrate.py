"""Brings a database up to date at start.

1. Versions are compared by plain SQL; when all match, Alembic is not even imported.
2. Otherwise each history that is behind runs in one transaction of its own, under a lock, so that of several
   processes starting at once one works and the others find it done.
3. A revision that fails takes its whole history's run back: nothing is left behind on either database.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from types import ModuleType

import sqlalchemy as sa
from loguru import logger

from clavitor_host.errors import ClavitorError, StartError
from clavitor_host.storage import maintenance
from clavitor_host.storage.database import Database
from clavitor_host.storage.history import Migrations, check_known, check_tables
from clavitor_host.storage.transaction import advisory_key

_ALEMBIC = threading.Lock()
"""`alembic.op` is one object for the whole process: one upgrade at a time may use it."""


async def migrate(db: Database, histories: Sequence[Migrations]) -> None:
    """Bring every history of `db` to its head. Raises `StartError`: a clash, a newer database, a failed revision."""
    check_tables(histories)
    versions = await current_versions(db, histories)
    for history in histories:
        check_known(history, versions.get(history.name))
    for history in histories:
        if versions.get(history.name) != history.head:
            await _migrate(db.url, history)


async def current_versions(db: Database, histories: Sequence[Migrations]) -> dict[str, str]:
    """Return the revision each history is at, by its name; a history the database does not have is left out."""
    tables = set(await _version_tables(db))
    present = [history for history in histories if history.version_table in tables]
    if not present:
        return {}
    selects = [
        f"SELECT '{each.name}' AS name, version_num FROM {each.version_table}"  # noqa: S608 - checked by Migrations
        for each in present
    ]
    rows = await db.fetch_all(" UNION ALL ".join(selects))
    return {row["name"]: row["version_num"] for row in rows}


async def _version_tables(db: Database) -> list[str]:
    if db.dialect == "sqlite":
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'alembic_version_%'"
    else:
        query = (
            "SELECT tablename AS name FROM pg_tables WHERE schemaname = current_schema()"
            " AND tablename LIKE 'alembic_version_%'"
        )
    return [row["name"] for row in await db.fetch_all(query)]


async def _migrate(url: str, history: Migrations) -> None:
    def work(connection: sa.Connection) -> None:
        lock(connection)
        upgrade(connection, history, history.head)

    try:
        await maintenance.run(url, work)
    except ClavitorError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise StartError(f"Migrating {history.name!r} failed, nothing was changed: {reason}") from error


def lock(connection: sa.Connection) -> None:
    """Wait until no other process migrates; held to the end of the transaction. SQLite's BEGIN IMMEDIATE does it."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(advisory_key("clavitor migrations"))))


def upgrade(connection: sa.Connection, history: Migrations, target: str) -> None:
    """Run what lacks of `history` up to the revision `target` inside the transaction that is open."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    before = set(sa.inspect(connection).get_table_names())
    current = read_version(connection, history) if history.version_table in before else None
    check_known(history, current)
    start = 0 if current is None else history.revisions.index(current) + 1
    end = history.revisions.index(target) + 1
    if start >= end:
        return
    with _ALEMBIC:
        context = MigrationContext.configure(connection, opts={"version_table": history.version_table})
        with Operations.context(context):
            for position in range(start, end):
                module = _load(history, position)
                logger.info("Migrating {} to {}", history.name, module.revision)
                module.upgrade()
    _write_version(connection, history, target)
    after = set(sa.inspect(connection).get_table_names())
    _check_created(history, after - before, after if target == history.head else None)


def read_version(connection: sa.Connection, history: Migrations) -> str | None:
    """Return the revision in the version table, which must exist."""
    query = f"SELECT version_num FROM {history.version_table}"  # noqa: S608 - a name checked by Migrations
    version: str | None = connection.exec_driver_sql(query).scalar()
    return version


def _write_version(connection: sa.Connection, history: Migrations, version: str) -> None:
    table = sa.Table(history.version_table, sa.MetaData(), sa.Column("version_num", sa.String(128), primary_key=True))
    table.create(connection, checkfirst=True)
    connection.execute(table.delete())
    connection.execute(table.insert().values(version_num=version))


def _load(history: Migrations, position: int) -> ModuleType:
    name = history.revisions[position]
    module = importlib.import_module(f"{history.package}.{name}")
    previous = history.revisions[position - 1] if position else None
    found = (getattr(module, "revision", None), getattr(module, "down_revision", None))
    if found != (name, previous):
        raise StartError(
            f"The revision module {module.__name__} must say revision = {name!r} and down_revision = {previous!r}."
        )
    return module


def _check_created(history: Migrations, created: set[str], present: set[str] | None) -> None:
    """A table nobody declares would be missing from backups; a declared one that nobody creates is a mistake."""
    strange = created - set(history.tables) - {history.version_table}
    if strange:
        raise StartError(f"The history {history.name!r} creates undeclared tables: {', '.join(sorted(strange))}.")
    absent = set(history.tables) - present if present is not None else set()
    if absent:
        raise StartError(f"The history {history.name!r} does not create its tables: {', '.join(sorted(absent))}.")
