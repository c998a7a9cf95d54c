"""`backup` while serving and `restore` all or nothing, between either database and either.

A backup reads one consistent snapshot, writes beside the target, syncs, and renames. A restore first reads the whole
file and checks it; only then it touches the database, in one transaction (see `restoring`). The server migrates on
from the backup's revisions at its next start.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from clavitor_host.storage import maintenance
from clavitor_host.storage.backup_file import CHUNK, BackupError, Header, Table, Writer, verify
from clavitor_host.storage.database import Database
from clavitor_host.storage.history import Migrations, check_known
from clavitor_host.storage.migrate import read_version

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all) on the event loop."""

__all__ = ["BackupError", "BackupInfo", "Progress", "backup", "restore", "verify"]


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What a backup holds. `created_at` in µs since the epoch; `revisions` by history name; `left_out`: tables of
    the database that belong to no history of this program."""

    created_at: int
    rows: int
    revisions: dict[str, str]
    left_out: tuple[str, ...] = ()


async def backup(
    db: Database, file: Path, histories: Sequence[Migrations], progress: Progress | None = None
) -> BackupInfo:
    """Write every table of `histories` to `file`, consistently, while others read and write.

    A file that exists is replaced, and only by a complete new one. Raises `BackupError`, `StartError`.
    """
    report = _Report(progress)

    def work(connection: sa.Connection) -> BackupInfo:
        return _write(connection, file, histories, report)

    return await _stoppable(maintenance.run(db.url, work, mode="read"), report)


async def restore(
    url: str,
    file: Path,
    histories: Sequence[Migrations],
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> BackupInfo:
    """Load `file` into the database at `url`, which must hold nothing of ours unless `force`.

    On any failure nothing is changed. The server must be stopped. Raises `BackupError`: a damaged file, a backup of
    a newer program or of plugins that are not here, a database in use or not empty; `StartError` when the database
    cannot be reached.
    """
    from clavitor_host.storage.restoring import check_restorable, check_unused, load

    report = _Report(progress)
    header = await asyncio.to_thread(verify, file)
    check_restorable(header, histories)
    await asyncio.to_thread(check_unused, url)

    def work(connection: sa.Connection) -> None:
        load(connection, file, histories, force=force, report=report)

    await _stoppable(maintenance.run(url, work), report)
    return BackupInfo(header.created_at, header.total, header.revisions)


class _Report:
    """Carries progress from the thread to the event loop, and the wish to stop the other way."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self.cancelled = threading.Event()

    def __call__(self, done: int, total: int) -> None:
        if self.cancelled.is_set():
            raise BackupError("cancelled")
        if self._progress is not None:
            self._loop.call_soon_threadsafe(self._progress, done, total)


async def _stoppable(work: Coroutine[Any, Any, T], report: _Report) -> T:
    """Await work in a thread; a cancellation stops it at the next chunk, and waits until it has."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        report.cancelled.set()
        await asyncio.wait({task})
        raise
    except OSError as error:
        raise BackupError(f"The backup cannot be read or written: {error.strerror or error}.") from error


def _write(
    connection: sa.Connection, file: Path, histories: Sequence[Migrations], report: Callable[[int, int], None]
) -> BackupInfo:
    present = set(sa.inspect(connection).get_table_names())
    here = [history for history in histories if history.version_table in present]
    if not here:
        raise BackupError("There is nothing to back up: the database was never migrated.")
    revisions = {history.name: read_version(connection, history) or "" for history in here}
    for history in here:
        check_known(history, revisions[history.name])
    names = [name for history in here for name in history.tables if name in present]
    tables = [sa.Table(name, sa.MetaData(), autoload_with=connection, resolve_fks=False) for name in names]
    described = [
        Table(each.name, [column.name for column in each.columns], _count(connection, each)) for each in tables
    ]
    header = Header(time.time_ns() // 1000, revisions, described)
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with Writer(beside, header) as writer:
            done = 0
            for table in tables:
                writer.begin(table.name)
                for rows in _chunks(connection, table):
                    writer.rows(rows)
                    done += len(rows)
                    report(done, header.total)
        beside.replace(file)
        _sync_folder(file.parent)
    except FileExistsError as error:
        raise BackupError(f"Another backup is being written: {beside}.") from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    known = {*names, *(history.version_table for history in here)}
    return BackupInfo(header.created_at, header.total, revisions, tuple(sorted(present - known)))


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def _chunks(connection: sa.Connection, table: sa.Table) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield the rows in key order, JSON as its stored text."""
    columns: list[Any] = [sa.cast(each, sa.Text) if isinstance(each.type, sa.JSON) else each for each in table.columns]
    query = sa.select(*columns).order_by(*table.primary_key.columns).execution_options(yield_per=CHUNK)
    yield from connection.execute(query).partitions()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
