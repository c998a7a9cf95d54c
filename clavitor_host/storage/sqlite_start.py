"""What can be wrong with a SQLite file at start, each told in one line."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from clavitor_host.errors import StartError
from clavitor_host.storage.errors import sqlite_code


def prepare(path: Path) -> None:
    """Make the file, readable by its owner only, when there is none. Raises `StartError` when that cannot be."""
    try:
        if not path.parent.is_dir():
            raise StartError(f"The folder of the database does not exist: {path.parent}. Create it, or give another.")
        if path.is_dir():
            raise StartError(f"The database path is a folder, not a file: {path}.")
        # only a file that does not exist is opened here: closing any descriptor of a database drops the POSIX locks
        # that SQLite holds on it in this process, and the next program to leave would take the log away under us
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StartError(f"The database {path} cannot be opened for writing: {error.strerror}.") from error


def explain(path: Path, error: sqlite3.Error | OSError) -> StartError:
    """Return the one line for an error met while opening `path`."""
    code = sqlite_code(error) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return _not_a_database(path)
    if code == sqlite3.SQLITE_CORRUPT:
        return StartError(f"The database {path} is damaged ({error}). Restore a backup: clavitor restore FILE.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StartError(f"The database {path} is locked by another program. Stop it, then start again.")
    if code == sqlite3.SQLITE_FULL:
        return StartError(f"The disk of the database {path} is full. Free some space, then start again.")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StartError(f"The database {path} cannot be written ({error}). Its folder must be writable by this user.")
    return StartError(f"The database {path} cannot be opened: {error}.")


def _not_a_database(path: Path) -> StartError:
    return StartError(f"The file {path} is not a SQLite database. Move it away, or restore a backup.")
