"""Data folders to measure on: made by the product's own commands, filled through its own tables."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.load import BLOB_BYTES, blob, entry_id
from bench.rounds import BrokenError, progress

CACHE = Path(__file__).parent / ".data"
"""Seeded folders are kept here between runs, temporary ones are made here too."""

_FORMAT = 1
_BLOCK = 20_000
_WAL_PAGES = 1_400
"""More than SQLite lets pass before it checkpoints and begins the log anew (1,000), and a batch."""
_ENTRY = "INSERT INTO entries (entry_id, encrypted_data, rev, created_at, updated_at) VALUES (?, ?, ?, ?, ?)"
_BULK = ("PRAGMA synchronous = OFF", "PRAGMA cache_size = -400000", "PRAGMA wal_autocheckpoint = 20000")


@dataclass(frozen=True, slots=True)
class Vault:
    """A data folder and a token that may write."""

    folder: Path
    token: str

    @property
    def file(self) -> Path:
        """The SQLite database."""
        return self.folder / "vault.db"


def clavitor(*arguments: str, env: Mapping[str, str], stdin: str = "") -> str:
    """Run the product's command line; return what it printed."""
    command = [sys.executable, "-m", "clavitor_host", *arguments]
    given = {name: value for name, value in os.environ.items() if not name.startswith("CLAVITOR_")}
    done = subprocess.run(
        command, env={**given, **env}, cwd=CACHE, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BrokenError(f"clavitor {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def fresh(folder: Path, database_url: str = "") -> Vault:
    """Make an empty vault with one user and one token."""
    env = {"CLAVITOR_DATA_DIR": str(folder)}
    if database_url:
        env["CLAVITOR_DATABASE_URL"] = database_url
    clavitor(
        "user", "create", "bench", "--role", "ADMIN", "--password-stdin", env=env, stdin="correct horse 42 bench\n"
    )
    made = json.loads(clavitor("token", "create", "--user", "bench", "--scope", "write", "--json", env=env))
    return Vault(folder, made["token"])


def grow_wal(file: Path) -> sqlite3.Connection:
    """Bring the write-ahead log to the size it has in a server that runs for long; it stays while this is open.

    Commits that lengthen a file cost a commit of the file system's journal too: the first thousand pages of a log
    are several times slower than all that follow.
    """
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    for pragma in ("PRAGMA synchronous = OFF", "PRAGMA wal_autocheckpoint = 0"):
        db.execute(pragma).fetchall()
    for _ in range(_WAL_PAGES):
        db.execute("UPDATE vault_head SET rev = rev WHERE id = 1")
    with file.with_name(f"{file.name}-wal").open("rb") as log:
        os.fsync(log.fileno())
    return db


def temporary() -> TemporaryDirectory[str]:
    """Return a folder on the file system of the cached ones, to be used as a context."""
    CACHE.mkdir(exist_ok=True)
    return TemporaryDirectory(dir=CACHE, prefix="run-")


def seeded(count: int) -> Vault:
    """Return a vault with `count` entries, from the cache when the schema is still the same."""
    with temporary() as scratch:
        empty = fresh(Path(scratch) / "vault")
        schema = _schema(empty.file)
        folder = CACHE / f"entries-{count}"
        note = folder / "seed.json"
        known = json.loads(note.read_text()) if note.exists() else {}
        if known.get("schema") != schema:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.move(empty.folder, folder)
            _fill(folder / "vault.db", count)
            known = {"schema": schema, "token": empty.token}
            note.write_text(json.dumps(known))
    vault = Vault(folder, known["token"])
    _read_once(vault.file)
    return vault


def _schema(file: Path) -> str:
    """Return a digest of the schema, its version and how the seed is made."""
    with sqlite3.connect(file) as db:
        found = db.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
        version = db.execute("SELECT version_num FROM alembic_version_host").fetchall()
        page = db.execute("PRAGMA page_size").fetchone()
    db.close()
    return hashlib.sha256(repr((_FORMAT, BLOB_BYTES, page, version, found)).encode()).hexdigest()


def _fill(file: Path, count: int) -> None:
    db = sqlite3.connect(file, isolation_level=None)
    for pragma in _BULK:
        db.execute(pragma).fetchall()
    at = time.time_ns() // 1000
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        progress(f"seeding {count:,} entries: {start:,}")
        db.execute("BEGIN IMMEDIATE")
        db.executemany(_ENTRY, _rows(start, end, at))
        db.execute(
            "UPDATE vault_head SET rev = ?, updated_at = ?, live_entries = live_entries + ? WHERE id = 1",
            (end, at + end, end - start),
        )
        db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    progress("")


def _rows(start: int, end: int, at: int) -> Iterator[tuple[str, str, int, int, int]]:
    for number in range(start, end):
        yield entry_id(number), blob(number), number + 1, at + number, at + number


def _read_once(file: Path) -> None:
    """Bring a file into the page cache, so that no figure depends on what ran before."""
    with file.open("rb", buffering=0) as opened:
        while opened.read(1 << 22):
            pass
