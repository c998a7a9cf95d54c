"""What the fleet costs: telemetry that is taken in, and the usage of licences beside much of it."""

from __future__ import annotations

import http.client
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from bench.load import Result, percentile
from bench.report import Ratio, Section
from bench.rounds import Bench, BrokenError, Server, progress
from bench.seed import Vault, fresh, grow_wal, temporary

INGEST_TARGET = 20_000
"""Rows a second, at least."""
FLOOR_TARGET = 0.3
"""Least of what a bare `executemany` of the same rows does."""
USAGE_TARGET = 0.020
"""Seconds, at most."""

BATCH = 1000
CONNECTIONS = 4
KEPT = 10_000_000
"""Rows of telemetry beside which the usage is asked for."""
_BLOCK = 50_000


def run(bench: Bench, *, quick: bool) -> Iterator[Section]:
    """Measure telemetry going in, then what is asked for beside it."""
    yield _ingest(bench, Path(bench.stack.enter_context(temporary())))
    yield _usage(bench, Path(bench.stack.enter_context(temporary())), KEPT // 10 if quick else KEPT)


# --- telemetry going in


def _ingest(bench: Bench, folder: Path) -> Section:
    section = Section(f"Telemetry: batches of {BATCH:,} rows over HTTP into the vault's own database", unit="rows/s")
    bodies = {"metrics": _metrics(), "logs": _logs()}
    found = []
    for stream, rows in bodies.items():
        vault = fresh(folder / stream)
        bench.stack.enter_context(closing(grow_wal(vault.file)))
        server = bench.server("fleet", f"--data={vault.folder}")
        token = _agent(server, vault)
        body = b"\n".join(json.dumps(row, separators=(",", ":")).encode() for row in rows)
        sending = partial(_send, bench, server.port, token, stream, body)
        taken = bench.add(f"{stream} over HTTP", sending, server.process.pid)
        bare = _Bare(folder / f"{stream}.db", vault.file, stream, rows)
        bench.stack.enter_context(closing(bare.db))
        found.append((taken, bench.add(f"{stream}, bare executemany", partial(bare.write, bench.pace.seconds))))
    section.measured += bench.run("fleet, telemetry")
    for taken, floor in found:
        share = taken.per_second / INGEST_TARGET
        section.ratios.append(Ratio(f"{taken.name} ({taken.per_second:,.0f})", f"{INGEST_TARGET:,} rows/s", share, 1.0))
        section.compare(taken, floor, FLOOR_TARGET)
    section.notes.append(
        f"{CONNECTIONS} connections of agents to one server process; each batch is checked row by row,"
    )
    section.notes.append("kept and synced before its answer. The floor writes the same rows into a table with the same")
    section.notes.append("indexes, a synced transaction a batch, and does nothing else.")
    return section


def _metrics() -> list[dict[str, Any]]:
    names = [f"jvm.memory.pool.{number}" for number in range(20)]
    return [
        {"ts": 0, "name": names[number % 20], "value": number * 1.25, "labels": {"area": "old", "gc": "g1"}}
        for number in range(BATCH)
    ]


def _logs() -> list[dict[str, Any]]:
    text = "Exchange of route orders ended after 17 ms: 3 rows, 1 retried; correlation "
    return [
        {"ts": 0, "level": "INFO", "logger": "com.example.orders.Route", "message": f"{text}{number:032x}"}
        for number in range(BATCH)
    ]


def _agent(server: Server, vault: Vault) -> str:
    """Make an environment, an app and an agent; return the agent's token."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        ask = partial(_post, connection, vault.token)
        environment = ask("environments", {"name": "bench"})["id"]
        app = ask("apps", {"name": "bench", "environment_id": environment})["id"]
        agent = ask("agents/register", {"app_id": app, "instance_id": "bench", "version": "1"})
        return str(agent["token"])


def _post(connection: http.client.HTTPConnection, token: str, path: str, body: object) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 201:
        raise BrokenError(f"POST {path}: {text.decode(errors='replace')}")
    return json.loads(text)


def _send(bench: Bench, port: int, token: str, stream: str, body: bytes, number: int) -> Result:
    """Send batches from several connections at once for the time of a round. Each row has the time of its batch."""
    times: list[float] = []
    wrong: list[str] = []
    began = perf_counter()
    until = began + bench.pace.seconds
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}

    def sending() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            while (sent := perf_counter()) < until and not wrong:
                now = b'"ts":%d' % (time.time_ns() // 1000)
                connection.request("POST", f"/api/v1/telemetry/{stream}", body.replace(b'"ts":0', now), headers)
                answer = connection.getresponse()
                if answer.read() != b'{"accepted":%d,"replayed":false}' % BATCH:
                    wrong.append(f"a batch was answered {answer.status}")
                times.append(perf_counter() - sent)

    threads = [threading.Thread(target=sending) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise BrokenError(wrong[0])
    elapsed = perf_counter() - began
    times.sort()
    count = len(times) * BATCH
    return Result(count, elapsed, percentile(times, 0.5), percentile(times, 0.99), count, 0.0)


class _Bare:
    """The floor: a table and indexes as the product has them, and its rows as tuples."""

    def __init__(self, file: Path, model: Path, stream: str, rows: list[dict[str, Any]]) -> None:
        self.db = sqlite3.connect(file, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self.db.execute(f"PRAGMA {pragma}").fetchall()
        self._table = f"telemetry_{stream}"
        with closing(sqlite3.connect(model)) as product:
            found = product.execute(
                "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC", [self._table]
            )
            for (sql,) in found.fetchall():
                self.db.execute(sql)
        names = [name for _, name, *_ in self.db.execute(f"PRAGMA table_info({self._table})") if name != "id"]
        self._insert = f"INSERT INTO {self._table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        agent = "01998a7e-5f4c-7aa1-9d3c-2f6e8b7d1c05"
        kept = [{"place_id": 1, "agent_id": agent, **dict.fromkeys(names[2:]), **row} for row in rows]
        self._rows = [tuple(_kept(row[name]) for name in names) for row in kept]
        self._ts = names.index("ts")

    def write(self, seconds: float, number: int) -> Result:
        """Write batches for `seconds`."""
        times: list[float] = []
        before, after = self._ts, self._ts + 1
        until = perf_counter() + seconds
        while perf_counter() < until:
            now = time.time_ns() // 1000
            rows = [(*row[:before], now, *row[after:]) for row in self._rows]
            began = perf_counter()
            self.db.execute("BEGIN IMMEDIATE")
            self.db.executemany(self._insert, rows)
            self.db.execute("COMMIT")
            times.append(perf_counter() - began)
        elapsed = sum(times)
        times.sort()
        count = len(times) * BATCH
        return Result(count, elapsed, percentile(times, 0.5), percentile(times, 0.99), count, 0.0)


def _kept(value: Any) -> Any:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, dict) else value


# --- what is used, beside much telemetry


def _usage(bench: Bench, folder: Path, kept: int) -> Section:
    section = Section(f"Usage of licences beside {kept:,} rows of telemetry", unit="req/s")
    many, none = fresh(folder / "many"), fresh(folder / "none")
    for vault, rows in ((many, kept), (none, 0)):
        server = bench.server("fleet", f"--data={vault.folder}")
        _agent(server, vault)
        if rows:
            _fill(vault.file, rows)
        name = f"usage, {rows:,} rows"
        bench.add(name, partial(_ask, bench, server.port, vault.token), server.process.pid)
    section.measured += bench.run("fleet, usage")
    beside, alone = section.measured
    took = median(result.p50 for result in beside.rounds)
    share = took / USAGE_TARGET
    limit = f"{USAGE_TARGET * 1e3:g} ms"
    section.ratios.append(Ratio(f"{beside.name} ({took * 1e3:.2f} ms)", limit, share, 1.0, at_least=False))
    section.compare(beside, alone)
    return section


def _ask(bench: Bench, port: int, token: str, number: int) -> Result:
    times: list[float] = []
    headers = {"Authorization": f"Bearer {token}"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        until = perf_counter() + bench.pace.seconds
        while (began := perf_counter()) < until:
            connection.request("GET", "/api/v1/admin/license/usage", headers=headers)
            answer = connection.getresponse()
            limits = {limit["key"]: limit["current"] for limit in json.loads(answer.read()).get("limits", ())}
            if (answer.status, limits.get("max_agents"), limits.get("max_log_retention_days")) != (200, 1, 1):
                raise BrokenError(f"the usage is wrong: {answer.status} {limits}")
            times.append(perf_counter() - began)
    elapsed = sum(times)
    times.sort()
    return Result(len(times), elapsed, percentile(times, 0.5), percentile(times, 0.99), len(times), 0.0)


def _fill(file: Path, count: int) -> None:
    """Put rows of the last day into a running server's database: two of three are metrics, the others log lines."""
    agent = "01998a7e-5f4c-7aa1-9d3c-2f6e8b7d1c05"
    metric = "INSERT INTO telemetry_metrics (place_id, agent_id, ts, name, value) VALUES (?, ?, ?, ?, ?)"
    line = "INSERT INTO telemetry_logs (place_id, agent_id, ts, level, message) VALUES (?, ?, ?, 'INFO', ?)"
    now, step = time.time_ns() // 1000, 40_000_000_000 // count
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for pragma in ("synchronous = OFF", "cache_size = -400000"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        for start in range(0, count, _BLOCK):
            progress(f"telemetry: {start:,} of {count:,} rows")
            numbers = range(start, min(start + _BLOCK, count))
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                metric,
                ((n % 50, agent, now - (count - n) * step, f"m{n % 100}", float(n)) for n in numbers if n % 3),
            )
            db.executemany(line, ((n % 50, agent, now - (count - n) * step, f"line {n}") for n in numbers if not n % 3))
            db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    progress("")
