"""What replication costs a primary, how fast a backup catches up, and how far it is behind."""

from __future__ import annotations

import http.client
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

from bench.load import Result, blob, percentile
from bench.machine import Cores, fsync_times
from bench.report import Measured, Ratio, Section
from bench.rounds import Bench, BrokenError, Server, free_port, progress
from bench.seed import CACHE, Vault, fresh, grow_wal, temporary
from clavitor_host.storage.connections import WriterConnection

QUEUE_TARGET = 0.85
"""Least of a primary's writes that is left when they are marked and queued."""
HASH_TARGET = 0.95
"""Least of a primary's writes that is left by the equality hashes."""
CATCH_UP_TARGET = 0.35
"""Least of what raw transactions of 100 rows do."""
LAGS = ((200, 1, 0.015), (3_000, 10, 0.030))
"""Writes a second, writes a request, and seconds that the 99th percentile of the lag may be."""

BATCH = 100
CONNECTIONS = 64
SECRET = "0" * 64
PATIENCE = 120.0
"""Seconds that a backup may take to catch up."""
_IDLE = 12.0
"""Seconds in which an idle primary's requests are counted: longer than between two heartbeats."""


def run(bench: Bench, *, quick: bool) -> Iterator[Section]:
    """Measure the cost of queueing, then catching up, then the lag."""
    yield _cost(bench, Path(bench.stack.enter_context(temporary())))
    with temporary() as folder:
        yield _catch_up(bench, Path(folder), 10_000 if quick else 50_000)
    with temporary() as folder:
        yield _lag(bench, Path(folder), 4.0 if quick else 10.0)


# --- what it costs to write


def _cost(bench: Bench, folder: Path) -> Section:
    """Writes over HTTP while the backup is down: nothing but marking and queueing is in the way."""
    kinds = {
        "PUT, replication off": {},
        "PUT, marked and queued": {"role": "primary"},
        "PUT, the same without hashes": {"role": "primary", "hashes": "no"},
    }
    found = []
    for number, (name, options) in enumerate(kinds.items()):
        vault = fresh(folder / f"cost{number}")
        bench.stack.enter_context(closing(grow_wal(vault.file)))
        given = {**options, "peer": f"http://127.0.0.1:{free_port()}"} if options else {}
        server = bench.server("replicating", f"--data={vault.folder}", f"--replication={json.dumps(given)}")
        found.append((bench.http(name, server, "put", CONNECTIONS, token=vault.token), vault))
    section = Section(f"Replication: what it costs a primary to write; {CONNECTIONS} connections, 1 KiB blob")
    section.measured += bench.run("replication, cost")
    for measured, vault in found[1:]:
        _all_queued(measured, vault)
    off, queued, without = (measured for measured, _ in found)
    section.compare(queued, off, QUEUE_TARGET)
    section.compare(without, off)
    section.compare(queued, without, HASH_TARGET)
    section.notes.append("The backup does not answer. The hashes are those that prove both vaults equal.")
    return section


def _all_queued(measured: Measured, vault: Vault) -> None:
    promised = sum(result.acknowledged for result in measured.rounds)
    with closing(_reading(vault.file)) as db:
        (queued,) = db.execute("SELECT count(*) FROM replication_queue").fetchone()
        (dirty,) = db.execute("SELECT count(*) FROM entries WHERE replication_dirty").fetchone()
    if not promised == queued == dirty:
        raise BrokenError(f"{measured.name}: {promised} acknowledged, {queued} queued, {dirty} dirty")


# --- catching up


def _catch_up(bench: Bench, folder: Path, count: int) -> Section:
    """A primary with a full queue meets its backup; the backup's audit rows tell when each batch was applied."""
    section = Section(f"Replication: a backup that was away catches up on {count:,} entries", unit="entries/s")
    raw = [_raw(folder / f"raw{number}.db", count // 4, audited=False) for number in range(3)]
    audited = [_raw(folder / f"audited{number}.db", count // 4, audited=True) for number in range(3)]
    vault, other = fresh(folder / "primary"), fresh(folder / "backup")
    with _Pair(bench, vault, None) as pair:
        _fill(pair.primary.port, vault.token, count)
    progress("replication: catching up")
    with _Pair(bench, vault, other):
        began = monotonic()
        while (left := _depth(vault)) and monotonic() - began < PATIENCE:
            sleep(0.1)
    if left:
        raise BrokenError(f"{left} entries still wait after {PATIENCE:.0f} s")
    caught = Measured("catching up, from the first batch to the last", [_applied(other, count)])
    floor = Measured("raw SQLite, transactions of 100 rows", raw)
    same = Measured("raw SQLite, the same with audit rows and indexes", audited)
    section.measured += [caught, floor, same]
    for against, target in ((floor, CATCH_UP_TARGET), (same, None)):
        ratio = caught.per_second / against.per_second
        names = [f"{each.name} ({each.per_second:,.0f})" for each in (caught, against)]
        section.ratios.append(Ratio(names[0], names[1], ratio, target))
    section.notes.append("Both processes work at once, on a core each. Latencies of the raw loops: their transactions.")
    return section


def _raw(file: Path, rows: int, *, audited: bool) -> Result:
    """Commit rows of the size of an entry, 100 at a time, into a table with nothing around it."""
    with closing(sqlite3.connect(file, factory=WriterConnection, isolation_level=None)) as db:
        db.execute("CREATE TABLE e (id INTEGER PRIMARY KEY, entry_id TEXT UNIQUE, data TEXT, rev INTEGER, at INTEGER)")
        db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, entry_id TEXT, title TEXT, hash TEXT, at INTEGER)")
        if audited:
            db.execute("CREATE UNIQUE INDEX e_rev ON e (rev)")
            db.execute("CREATE INDEX a_entry ON a (entry_id, id)")
            db.execute("CREATE TABLE v (entry_id TEXT PRIMARY KEY, rev INTEGER, digest BLOB) WITHOUT ROWID")
        times = []
        began = perf_counter()
        for first in range(1, rows, BATCH):
            numbers = range(first, first + BATCH)
            start = perf_counter()
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO e VALUES (?, ?, ?, ?, ?)", [(n, _id(n), blob(n), n, n) for n in numbers])
            if audited:
                title = "replicated from primary"
                db.executemany("INSERT INTO a VALUES (?, ?, ?, ?, ?)", [(n, _id(n), title, SECRET, n) for n in numbers])
                db.executemany("INSERT INTO v VALUES (?, ?, ?)", [(_id(n), n, bytes(32)) for n in numbers])
            db.execute("COMMIT")
            times.append(perf_counter() - start)
        elapsed = perf_counter() - began
    times.sort()
    return Result(rows, elapsed, percentile(times, 0.5), percentile(times, 0.99), rows, 0.0)


def _id(number: int) -> str:
    return f"0192f000-{number:012x}"


def _applied(vault: Vault, count: int) -> Result:
    with closing(_reading(vault.file)) as db:
        rows = db.execute("SELECT at FROM audit_log WHERE action = 'replicated' ORDER BY id").fetchall()
    if len(rows) != count:
        raise BrokenError(f"{len(rows)} of {count} entries were applied")
    times = sorted({at for (at,) in rows})
    gaps = sorted((b - a) / 1e6 for a, b in pairwise(times))
    elapsed = (times[-1] - times[0]) / 1e6
    return Result(count - BATCH, elapsed, percentile(gaps, 0.5), percentile(gaps, 0.99), count, 0.0)


# --- how far it is behind


def _lag(bench: Bench, folder: Path, seconds: float) -> Section:
    """Writes at a steady pace; every entry knows when it was written and when the backup had confirmed it."""
    section = Section("Replication: from the write to the backup's confirmation", unit="writes/s")
    p50, p99 = fsync_times(CACHE)
    for rate, size, target in LAGS:
        vault, other = fresh(folder / f"primary{rate}"), fresh(folder / f"backup{rate}")
        with _Pair(bench, vault, other) as pair:
            _settle(pair.primary, vault)
            progress(f"replication: {rate} writes a second")
            written = _pace(pair.primary.port, vault.token, rate, size, seconds)
            began = monotonic()
            while _depth(vault) and monotonic() - began < PATIENCE:
                sleep(0.1)
            if rate == LAGS[0][0]:
                section.notes.append(_idle(pair.primary))
        lags = _lags(vault)
        result = Result(written, seconds, percentile(lags, 0.5), percentile(lags, 0.99), len(lags), 0.0)
        section.measured.append(Measured(f"{rate:,} writes/s wanted, {size} a request", [result]))
        name = f"lag at {rate:,}/s, p99 {result.p99 * 1e3:.1f} ms"
        section.ratios.append(Ratio(name, f"{target * 1e3:.0f} ms", result.p99 / target, 1.0, at_least=False))
        name = f"lag at {rate:,}/s, p50 {result.p50 * 1e3:.1f} ms"
        section.ratios.append(Ratio(name, f"fdatasync p50 {p50 * 1e3:.2f} ms", result.p50 / p50))
    section.notes.append(f"fdatasync of 4 KiB in the same run: p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms; a write")
    section.notes.append("waits for two, the primary's and the backup's. The lag begins before the primary's commit.")
    return section


def _pace(port: int, token: str, rate: int, size: int, seconds: float) -> int:
    """Write at a rate, `size` entries a request; return how many a run wrote."""
    interval = size / rate
    written = 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        began = perf_counter()
        while (now := perf_counter()) - began < seconds:
            due = began + written / size * interval
            if due > now:
                sleep(due - now)
            _batch(connection, token, range(written, written + size))
            written += size
    return written


def _lags(vault: Vault) -> list[float]:
    with closing(_reading(vault.file)) as db:
        rows = db.execute("SELECT replicated_at - updated_at FROM entries WHERE replicated_at IS NOT NULL").fetchall()
    return sorted(lag / 1e6 for (lag,) in rows)


def _idle(server: Server) -> str:
    before = _requests(server.port)
    sleep(_IDLE)
    made = _requests(server.port) - before
    return f"Idle for {_IDLE:.0f} s the primary made {made:.0f} requests; it beats every 10 s."


def _requests(port: int) -> float:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/api/v1/prometheus")
        text = connection.getresponse().read().decode()
    lines = [line for line in text.splitlines() if line.startswith("clavitor_outbound_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


# --- two servers


class _Pair:
    """A primary, and its backup on the other core; without one nothing listens where it should be."""

    def __init__(self, bench: Bench, vault: Vault, other: Vault | None) -> None:
        self._bench = bench
        self._vault = vault
        self._other = other
        self._servers: list[Server] = []

    def __enter__(self) -> _Pair:
        cores, port = self._bench.cores, free_port()
        if self._other is not None:
            backup = Server(
                "replicating",
                Cores(cores.server, cores.client),
                f"--data={self._other.folder}",
                f"--replication={json.dumps({'role': 'backup'})}",
            )
            self._servers.append(backup.__enter__())
            port = backup.port
        given = json.dumps({"role": "primary", "peer": f"http://127.0.0.1:{port}"})
        primary = Server("replicating", cores, f"--data={self._vault.folder}", f"--replication={given}")
        self._servers.append(primary.__enter__())
        self.primary = primary
        return self

    def __exit__(self, *_: object) -> None:
        for server in reversed(self._servers):
            server.__exit__()


def _fill(port: int, token: str, count: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for first in range(0, count, BATCH):
            progress(f"replication: {first:,} of {count:,} entries")
            _batch(connection, token, range(first, first + BATCH))


def _batch(connection: http.client.HTTPConnection, token: str, numbers: Sequence[int]) -> None:
    operations = [{"operation": "put", "entry_id": _id(n), "encrypted_data": blob(n)} for n in numbers]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/entries/batch", json.dumps({"operations": operations}), headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise BrokenError(f"entries were not written: {body.decode(errors='replace')}")


def _settle(server: Server, vault: Vault) -> None:
    """Have one write confirmed: both sides are up, and have met."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        _batch(connection, vault.token, [10**9])
    began = monotonic()
    while _depth(vault):
        if monotonic() - began > PATIENCE:
            raise BrokenError(f"the backup confirms nothing: {server.output()}")
        sleep(0.05)
    time.sleep(1.0)


def _depth(vault: Vault) -> int:
    with closing(_reading(vault.file)) as db:
        (count,) = db.execute("SELECT count(*) FROM replication_queue").fetchone()
    return int(count)


def _reading(file: Path) -> Any:
    return sqlite3.connect(f"file:{file}?mode=ro", uri=True)
