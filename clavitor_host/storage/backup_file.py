"""The backup file: gzip over lines of JSON, the same whichever database it came from.

Line 1 is the header: format, time, the revision of each history, tables with their columns and row counts. Then, for
each table, `{"table": name}` and a line a row, an array in column order. The last line is the SHA-256 of all lines
before it. Values JSON cannot say are objects: `{"b": base64}`, `{"d": decimal}`, `{"t": date and time}`,
`{"D": date}`; JSON columns are strings holding their stored text.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from clavitor_host.errors import ClavitorError

FORMAT = "clavitor-backup/1"
LONGEST_LINE = 256 * 1024 * 1024
CHUNK = 500
"""Rows held in memory at a time."""


class BackupError(ClavitorError):
    """A backup cannot be made or restored; the message says why."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a backup."""

    name: str
    columns: list[str]
    rows: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup holds. `created_at` in µs since the epoch; `revisions`: by history name."""

    created_at: int
    revisions: dict[str, str]
    tables: list[Table]

    @property
    def total(self) -> int:
        """Rows in all tables."""
        return sum(table.rows for table in self.tables)


class Writer:
    """Writes a new file, readable by its owner only; synced to disk when it is left without an error."""

    def __init__(self, path: Path, header: Header) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._raw = os.fdopen(handle, "wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=self._raw, mtime=0)
        self._digest = sha256()
        tables = [{"name": each.name, "columns": each.columns, "rows": each.rows} for each in header.tables]
        self._line({"format": FORMAT, "created_at": header.created_at, "revisions": header.revisions, "tables": tables})

    def begin(self, table: str) -> None:
        """Start the rows of a table."""
        self._line({"table": table})

    def rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of the table begun last."""
        for row in rows:
            self._line([_encode(value) for value in row])

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._raw:
            if kind is None:
                self._line({"sha256": self._digest.hexdigest()})
                self._gzip.close()
                self._raw.flush()
                os.fsync(self._raw.fileno())

    def _line(self, value: Any) -> None:
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        self._digest.update(line)
        self._gzip.write(line)


class Reader:
    """Reads a file from its header to its checksum. Everything it raises about the file is a `BackupError`."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = gzip.GzipFile(path, "rb")
        except OSError as error:
            raise BackupError(f"The backup {path} cannot be read: {error.strerror or error}.") from error
        self._path = path
        self._digest = sha256()
        try:
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tables(self) -> Iterator[tuple[Table, Iterator[list[bytes]]]]:
        """Yield each table with the lines of its rows in chunks, to be used up in this order; check the sum last."""
        for table in self.header.tables:
            if self._json() != {"table": table.name}:
                raise self._damaged()
            yield table, self._rows(table.rows)
        expected = {"sha256": self._digest.hexdigest()}
        if self._json() != expected or self._line(last=True):
            raise self._damaged()

    def _rows(self, count: int) -> Iterator[list[bytes]]:
        while count:
            chunk = [self._line() for _ in range(min(count, CHUNK))]
            if any(not line.startswith(b"[") for line in chunk):
                raise self._damaged()
            count -= len(chunk)
            yield chunk

    def _header(self) -> Header:
        header = self._json()
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise BackupError(f"{self._path} is not a backup that this program can read.")
        try:
            tables = [Table(str(each["name"]), list(each["columns"]), int(each["rows"])) for each in header["tables"]]
            return Header(int(header["created_at"]), dict(header["revisions"]), tables)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged() from error

    def _json(self) -> Any:
        try:
            return json.loads(self._line())
        except ValueError as error:
            raise self._damaged() from error

    def _line(self, *, last: bool = False) -> bytes:
        try:
            line = self._file.readline(LONGEST_LINE)
        except gzip.BadGzipFile as error:
            raise BackupError(f"{self._path} is not a backup, or it is damaged.") from error
        except (EOFError, zlib.error, OSError) as error:
            raise self._damaged() from error
        if not last and not line.endswith(b"\n"):
            raise self._damaged()
        self._digest.update(line)
        return line

    def _damaged(self) -> BackupError:
        return BackupError(f"The backup {self._path} is damaged or cut short; it was not restored.")


def verify(path: Path) -> Header:
    """Read the whole file, check it, and return its header. Raises `BackupError`."""
    with Reader(path) as reader:
        for _, chunks in reader.tables():
            for _ in chunks:
                pass
        return reader.header


def decode(line: bytes) -> list[Any]:
    """Return the values of one row."""
    return [_decoded(value) if type(value) is dict else value for value in json.loads(line)]


def _encode(value: Any) -> Any:
    if value is None or type(value) in (int, str, bool, float):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, Decimal):
        return {"d": str(value)}
    if isinstance(value, datetime.datetime):
        return {"t": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"D": value.isoformat()}
    raise BackupError(f"A value of type {type(value).__name__} cannot be backed up.")


def _decoded(value: dict[str, str]) -> Any:
    ((kind, text),) = value.items()
    if kind == "b":
        return base64.b64decode(text, validate=True)
    if kind == "d":
        return Decimal(text)
    if kind == "t":
        return datetime.datetime.fromisoformat(text)
    return datetime.date.fromisoformat(text)
