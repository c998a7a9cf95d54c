"""Durable writes over HTTP against the naive way, one commit per request, and a raw SQLite loop."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from bench.load import Result
from bench.report import Measured, Section
from bench.rounds import Bench, BrokenError
from bench.seed import Vault, fresh, grow_wal, temporary

NAIVE_TARGET = 11.0
SINGLE_TARGET = 3.2


def run(bench: Bench, *, quick: bool) -> list[Section]:
    """Measure writes over 32 and 64 connections (quick: 64)."""
    folder = Path(bench.stack.enter_context(temporary()))
    empty = fresh(folder / "empty")
    return [_run(bench, empty, connections) for connections in ((64,) if quick else (32, 64))]


def _run(bench: Bench, empty: Vault, connections: int) -> Section:
    def copy(name: str) -> Vault:
        folder = Path(shutil.copytree(empty.folder, empty.folder.parent / f"{name}-{connections}"))
        vault = Vault(folder, empty.token)
        bench.stack.callback(grow_wal(vault.file).close)
        return vault

    contenders = {
        "PUT, our server": ("product",),
        "PUT, one commit per request": ("product", "--max-batch=1"),
        "PUT, the naive way": ("naive",),
    }
    found: list[tuple[Measured, Vault]] = []
    for number, (name, (kind, *options)) in enumerate(contenders.items()):
        vault = copy(f"put{number}")
        server = bench.server(kind, f"--data={vault.folder}", *options)
        found.append((bench.http(name, server, "put", connections, token=vault.token), vault))
    raw = copy("raw1"), copy("raw64")
    loop = bench.add("raw SQLite, one row a commit", lambda _: _commits(bench, raw[0], 1))
    batched = bench.add("raw SQLite, 64 rows a commit", lambda _: _commits(bench, raw[1], 64))
    title = f"Durable writes: {connections} connections, 1 KiB blob, bearer token, audit row, synchronous=FULL"
    section = Section(title, measured=bench.run(f"writes, {connections} connections"))
    for measured, vault in found:
        _verify(measured, vault)
    (ours, _), (single, _), (naive, _) = found
    judged = connections == 64
    section.compare(ours, naive, NAIVE_TARGET if judged else None)
    section.compare(ours, single, SINGLE_TARGET if judged else None)
    section.compare(ours, loop)
    section.compare(ours, batched)
    section.notes.append("The raw loops' latencies are those of COMMIT, so of the fsync.")
    return section


def _commits(bench: Bench, vault: Vault, rows: int) -> Result:
    command = [sys.executable, "-m", "bench.commits", str(vault.file), str(bench.pace.seconds), str(rows)]
    done = subprocess.run([*command, *map(str, bench.cores.server)], stdout=subprocess.PIPE, check=True)
    return Result(**json.loads(done.stdout))


def _verify(measured: Measured, vault: Vault) -> None:
    """Every acknowledged write must be there, each with its audit row."""
    promised = sum(result.acknowledged for result in measured.rounds)
    with sqlite3.connect(f"file:{vault.file}?mode=ro", uri=True) as db:
        (entries,) = db.execute("SELECT count(*) FROM entries").fetchone()
        (audits,) = db.execute("SELECT count(*) FROM audit_log WHERE category = 'VAULT'").fetchone()
    db.close()
    if not promised == entries == audits:
        raise BrokenError(f"{measured.name}: {promised} acknowledged, {entries} entries, {audits} audit rows")
