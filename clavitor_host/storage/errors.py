"""What the database says went wrong, in the words of the house.

Every driver error that means "cannot be used right now" becomes `StorageUnavailable`; a broken constraint becomes
`IntegrityError`; anything else is a mistake in the program and passes through unchanged.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import NoReturn

from clavitor_host.errors import ClavitorError, StorageUnavailable

UNAVAILABLE = "storage_unavailable"
BUSY = "storage_busy"
FULL = "storage_full"
OUTCOME_UNKNOWN = "storage_outcome_unknown"


class IntegrityError(ClavitorError):
    """A constraint refuses the write. `constraint` is what the database calls it, as far as it tells."""

    def __init__(self, detail: str, *, constraint: str = "") -> None:
        super().__init__(detail)
        self.constraint = constraint


class UniqueViolation(IntegrityError):
    """A row with the same unique key exists."""


class OutcomeUnknown(StorageUnavailable):
    """The connection broke during COMMIT: the write may or may not be there. Read before trying again."""

    def __init__(self) -> None:
        super().__init__(
            "The connection to the database broke while committing; read back before trying again.",
            code=OUTCOME_UNKNOWN,
        )
        del self.headers["Retry-After"]  # a blind repeat could write it twice


class TransactionFailed(ClavitorError):
    """A statement failed earlier in this transaction, so it can only roll back. Use `tx.savepoint()` around a
    statement that may fail."""


class LeaseLost(ClavitorError):
    """The lease is no longer held, so the exclusive work must stop."""


def unavailable(detail: str = "The database cannot be used right now.") -> StorageUnavailable:
    """Return the general 503."""
    return StorageUnavailable(detail, code=UNAVAILABLE)


def busy(detail: str = "The database is busy; try again.") -> StorageUnavailable:
    """Return the 503 for a lock that could not be had in time."""
    return StorageUnavailable(detail, code=BUSY)


def full() -> StorageUnavailable:
    """Return the 503 for a full disk."""
    return StorageUnavailable("The disk of the database is full.", code=FULL, retry_after=10)


def translate(error: BaseException) -> BaseException:
    """Return the error to raise in place of a driver's `error`; the same object when it needs no translation."""
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error)
    if type(error).__module__.startswith("asyncpg"):
        return _translate_asyncpg(error)
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return busy("The database did not answer in time; try again.")
    if isinstance(error, OSError):
        return unavailable()
    return error


def reraise(error: BaseException) -> NoReturn:
    """Raise `error`, translated where that is called for."""
    translated = translate(error)
    if translated is error:
        raise error
    raise translated from error


_SQLITE_UNAVAILABLE = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_INTERRUPT,
}
_SQLITE_UNIQUE = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}


def sqlite_code(error: BaseException) -> int:
    """Return SQLite's extended result code, 0 when the error carries none."""
    return getattr(error, "sqlite_errorcode", 0)


def _translate_sqlite(error: sqlite3.Error) -> BaseException:
    extended = sqlite_code(error)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT:
        kind = UniqueViolation if extended in _SQLITE_UNIQUE else IntegrityError
        return kind(str(error), constraint=str(error).partition(": ")[2])
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return busy()
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return full()
    if code in _SQLITE_UNAVAILABLE or (isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error)):
        return unavailable()
    return error


_PG_BUSY = {"55P03", "40001", "40P01", "0A000"}
"""Lock not available, serialisation failure, deadlock, a cached plan gone stale: the same request may succeed."""
_PG_UNAVAILABLE = {"25006", "57P01", "57P02", "57P03", "57014", "58030"}


def _translate_asyncpg(error: BaseException) -> BaseException:
    state: str = getattr(error, "sqlstate", None) or ""
    detail = str(error).partition("\n")[0]
    if state == "23505":
        return UniqueViolation(detail, constraint=getattr(error, "constraint_name", None) or "")
    if state.startswith("23"):
        return IntegrityError(detail, constraint=getattr(error, "constraint_name", None) or "")
    if state == "53100":
        return full()
    if state == "0A000" and type(error).__name__ != "InvalidCachedStatementError":
        return error
    if state in _PG_BUSY:
        return busy()
    if state[:2] in ("08", "53", "28", "3D") or state in _PG_UNAVAILABLE:
        return unavailable()
    if any(base.__name__ in ("InterfaceError", "InternalClientError") for base in type(error).__mro__):
        return error if _is_usage(error) else unavailable()
    return error


def _is_usage(error: BaseException) -> bool:
    """Tell a wrong argument (asyncpg.DataError and friends) from a connection that cannot be used."""
    return any(base.__name__ == "DataError" for base in type(error).__mro__) or "expects" in str(error)


def connection_is_lost(error: BaseException) -> bool:
    """Say whether a driver's error leaves open what the server did."""
    if isinstance(error, (OSError, asyncio.TimeoutError, TimeoutError)):
        return True
    state: str = getattr(error, "sqlstate", None) or ""
    if state.startswith("08") or state in ("57P01", "57P02", "57P03", "57014"):
        return True
    return type(error).__module__.startswith("asyncpg") and not state
