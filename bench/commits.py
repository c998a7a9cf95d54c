"""The floor of every durable write: a raw SQLite loop, the same rows and PRAGMAs as the product, nothing around it.

`python -m bench.commits FILE SECONDS ROWS [CPU]` prints a `Result`; its latencies are those of the COMMITs alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from bench.load import Result, blob, percentile
from clavitor_host.storage.connections import WriterConnection

_ENTRY = "INSERT INTO entries (entry_id, encrypted_data, rev, created_at, updated_at) VALUES (?, ?, ?, ?, ?)"
_AUDIT = (
    "INSERT INTO audit_log (id, at, category, action, actor, entry_id, title, payload, source, prev_hash, hash)"
    " VALUES (?, ?, 'VAULT', 'create_entry', 'bench', ?, ?, ?, '127.0.0.1', ?, ?)"
)
_HEAD = "UPDATE vault_head SET rev = ?, updated_at = ?, live_entries = live_entries + ? WHERE id = 1"
_AUDIT_HEAD = "UPDATE audit_head SET audit_id = ?, hash = ? WHERE id = 1"


def run(file: Path, seconds: float, rows: int) -> Result:
    """Commit `rows` entries at a time, each with its audit row, for `seconds`."""
    db = sqlite3.connect(file, factory=WriterConnection, isolation_level=None)
    (rev,) = db.execute("SELECT rev FROM vault_head WHERE id = 1").fetchone()
    audit_id, head_hash = db.execute("SELECT audit_id, hash FROM audit_head WHERE id = 1").fetchone()
    times = []
    done = 0
    start = now = perf_counter()
    while now - start < seconds:
        at = time.time_ns() // 1000
        entries = list(_entries(rev, at, rows))
        audits = []
        for entry_id, _, number, *_ in entries:
            audit_id += 1
            previous, head_hash = head_hash, hashlib.sha256(f"{head_hash} {entry_id}".encode()).hexdigest()
            title, payload = f"created entry {entry_id}", f'{{"rev":{number}}}'
            audits.append((audit_id, at, entry_id, title, payload, previous, head_hash))
        db.execute("BEGIN IMMEDIATE")
        db.executemany(_ENTRY, entries)
        rev += rows
        db.execute(_HEAD, (rev, at, rows))
        db.executemany(_AUDIT, audits)
        db.execute(_AUDIT_HEAD, (audit_id, head_hash))
        before = perf_counter()
        db.execute("COMMIT")
        now = perf_counter()
        times.append(now - before)
        done += rows
    db.close()
    times.sort()
    return Result(done, now - start, percentile(times, 0.5), percentile(times, 0.99), done, 0.0)


def _entries(rev: int, at: int, rows: int) -> Iterator[tuple[str, str, int, int, int]]:
    for number in range(rev + 1, rev + rows + 1):
        yield str(uuid.uuid4()), blob(number), number, at, at


def main() -> None:
    """Measure once."""
    file, seconds, rows, *cpus = sys.argv[1:]
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus})
    print(json.dumps(asdict(run(Path(file), float(seconds), int(rows)))))


if __name__ == "__main__":
    main()
