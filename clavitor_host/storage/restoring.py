"""Loading a backup, in one transaction: drop what is there (when forced), migrate to the backup's revisions, load
the rows, set the sequences. PostgreSQL's foreign keys are taken off for the load and put back, which checks them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS

from clavitor_host.storage.backup_file import BackupError, Header, Reader, Table, decode
from clavitor_host.storage.database import sqlite_path
from clavitor_host.storage.history import Migrations
from clavitor_host.storage.migrate import lock, upgrade

_IN_USE = "The database is in use. Stop the server, then restore."


def check_restorable(header: Header, histories: Sequence[Migrations]) -> None:
    """Raise `BackupError` when this program cannot hold what the backup holds."""
    known = {history.name: history for history in histories}
    absent = sorted(set(header.revisions) - set(known))
    if absent:
        raise BackupError(f"The backup holds data of plugins that are not in this build: {', '.join(absent)}.")
    for name, revision in header.revisions.items():
        if revision not in known[name].revisions:
            raise BackupError(
                f"The backup was made by a newer program: {name!r} is at revision {revision!r}, this program knows "
                f"up to {known[name].head!r}. Restore it with the newer program."
            )


def check_unused(url: str) -> None:
    """Raise `BackupError` while another process has the SQLite file open. PostgreSQL: see `load`."""
    if not url.startswith("sqlite:") or not sqlite_path(url).is_file():
        return
    connection = sqlite3.connect(sqlite_path(url), timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BackupError(_IN_USE) from error
    except sqlite3.DatabaseError:
        pass  # not a database: opening it for the restore says so
    finally:
        connection.close()


def load(
    connection: sa.Connection,
    file: Path,
    histories: Sequence[Migrations],
    *,
    force: bool,
    report: Callable[[int, int], None],
) -> None:
    """Put the content of `file` in the place of what is there."""
    lock(connection)
    if connection.dialect.name == "postgresql":
        _check_no_server(connection)
    _clear(connection, histories, force=force)
    with Reader(file) as reader:
        header = reader.header
        check_restorable(header, histories)
        for history in histories:
            if history.name in header.revisions:
                upgrade(connection, history, header.revisions[history.name])
        foreign_keys = _take_off_foreign_keys(connection)
        present = set(sa.inspect(connection).get_table_names())
        tables = {each.name: _reflect(connection, each, present) for each in header.tables}
        for table in tables.values():
            connection.execute(sa.delete(table))  # rows that a revision put there
        done = 0
        for described, chunks in reader.tables():
            table = tables[described.name]
            insert = _insert(connection, table)
            for chunk in chunks:
                rows = [dict(zip(described.columns, decode(line), strict=True)) for line in chunk]
                connection.execute(insert, rows)
                done += len(chunk)
                report(done, header.total)
            _set_sequences(connection, table)
    for statement in foreign_keys:
        connection.exec_driver_sql(statement)


def _check_no_server(connection: sa.Connection) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'clavitor'"
    if connection.exec_driver_sql(query).scalar():
        raise BackupError(_IN_USE)


def _clear(connection: sa.Connection, histories: Sequence[Migrations], *, force: bool) -> None:
    """Drop every table of the histories. Tables of others in the same database are left alone."""
    ours = {name for history in histories for name in (*history.tables, history.version_table)}
    found = sorted(ours & set(sa.inspect(connection).get_table_names()))
    if found and not force:
        raise BackupError("The database is not empty. Restore into an empty one, or replace its content with --force.")
    cascade = " CASCADE" if connection.dialect.name == "postgresql" else ""
    quote = connection.dialect.identifier_preparer.quote
    for name in found:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {quote(name)}{cascade}")


def _reflect(connection: sa.Connection, described: Table, present: set[str]) -> sa.Table:
    if described.name not in present:
        raise BackupError(f"The backup holds the unknown table {described.name!r}.")
    table = sa.Table(described.name, sa.MetaData(), autoload_with=connection, resolve_fks=False)
    if {column.name for column in table.columns} != set(described.columns):
        raise BackupError(f"The columns of table {described.name!r} differ from those of the backup.")
    return table


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """Return the insert that takes JSON columns as their stored text."""
    values: dict[str, Any] = {}
    for column in table.columns:
        value: Any = sa.bindparam(column.name, type_=column.type)
        if isinstance(column.type, sa.JSON):
            value = sa.bindparam(column.name, type_=sa.Text())
            if connection.dialect.name == "postgresql":
                value = sa.cast(value, column.type)
        values[column.name] = value
    plain = sa.table(table.name, *[sa.column(name) for name in values])
    return sa.insert(plain).values(values)


def _take_off_foreign_keys(connection: sa.Connection) -> list[str]:
    """Drop all foreign keys (PostgreSQL) and return the statements that put them back."""
    if connection.dialect.name != "postgresql":
        return []
    query = (
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = current_schema()::regnamespace ORDER BY 1, 2"
    )
    found = connection.exec_driver_sql(query).fetchall()
    for table, name, _ in found:
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    return [f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for table, name, definition in found]


def _set_sequences(connection: sa.Connection, table: sa.Table) -> None:
    if connection.dialect.name != "postgresql":
        return
    quoted = connection.dialect.identifier_preparer.format_table(table)
    for column in table.columns:
        if not isinstance(column.type, sa.Integer):
            continue
        query = sa.select(sa.func.pg_get_serial_sequence(quoted, column.name))
        sequence = connection.execute(query).scalar()
        if sequence is not None:
            highest = sa.select(sa.func.max(column)).scalar_subquery()
            name = sa.cast(sequence, REGCLASS)
            connection.execute(sa.select(sa.func.setval(name, sa.func.coalesce(highest, 1), highest.is_not(None))))
