"""SQLite: PRAGMAs everywhere, one writer, locks that never block the event loop, errors in one line."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.errors import StartError, StorageUnavailable
from clavitor_host.storage import sqlite
from clavitor_host.storage.database import Database, PointRead, sqlite_path, sqlite_url
from clavitor_host.storage.errors import IntegrityError
from clavitor_host.storage.writer import GroupCommitWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.db"


@pytest.fixture
async def db(path: Path, things: sa.Table) -> AsyncIterator[Database]:
    db = Database(sqlite_url(path), busy_timeout=0.5)
    await db.open()
    await db.execute(sa.schema.CreateTable(things))
    yield db
    await db.close()


@contextmanager
def locked(path: Path, how: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Another program holding the file's lock."""
    other = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
    try:
        other.execute(how)
        yield other
    finally:
        if other.in_transaction:
            other.execute("ROLLBACK")
        other.close()


PRAGMAS = {
    "foreign_keys": 1,
    "journal_mode": "wal",
    "synchronous": 2,
    "busy_timeout": 500,
    "page_size": 8192,
}


async def test_every_connection_has_its_pragmas(db: Database) -> None:
    engine = db.engine
    assert isinstance(engine, sqlite.Engine)

    async def read(pragma: str) -> Any:
        await asyncio.sleep(0)
        return await db.fetch_val(f"PRAGMA {pragma}")

    for pragma, expected in PRAGMAS.items():
        assert await asyncio.gather(*[read(pragma) for _ in range(8)]) == [expected] * 8
        async with db.transaction() as tx:
            assert await tx.fetch_val(f"PRAGMA {pragma}") == expected
        assert engine._writer is not None
        assert engine._writer[1].sqlite.execute(f"PRAGMA {pragma}").fetchone()[0] == expected
    assert len(engine._idle) == 4
    assert await db.fetch_val("PRAGMA mmap_size") > 0
    assert await db.fetch_val("PRAGMA query_only") == 1


async def test_connections_are_kept(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    connect = sqlite3.connect

    def counting(*args: Any, **kwargs: Any) -> Any:
        opened.append(args)
        return connect(*args, **kwargs)

    monkeypatch.setattr(sqlite3, "connect", counting)
    threads = threading.active_count()
    for _ in range(20):
        await db.fetch_val("SELECT 1 AS one")
        await db.execute("DELETE FROM things")
    assert len(opened) <= 1
    assert threading.active_count() <= threads + 1


async def test_a_transaction_takes_the_write_lock_at_once(db: Database, path: Path) -> None:
    async with db.transaction():
        with pytest.raises(sqlite3.OperationalError, match="locked"), locked(path):
            pass


async def test_a_lock_of_another_process_is_awaited_without_blocking_the_loop(
    db: Database, path: Path, things: sa.Table
) -> None:
    gaps = [0.0]

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    writer = GroupCommitWriter(db)
    await writer.start()

    async def apply(tx: Any, ops: Any) -> Any:
        await tx.insert_many(things, [{"key": op} for op in ops])
        return ops

    with locked(path) as other:
        waiting = [
            asyncio.create_task(db.execute(sa.insert(things).values(key="ordinary"))),
            asyncio.create_task(writer.submit(apply, "batched")),
        ]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        other.execute("ROLLBACK")
        await asyncio.gather(*waiting)
    ticking.cancel()
    await writer.stop()
    assert max(gaps) < 0.3  # less than the busy time-out, in which SQLite would sleep
    assert await db.fetch_val("SELECT count(*) FROM things") == 2


async def test_a_lock_that_stays_is_busy_for_everyone_and_over_when_it_goes(
    db: Database, path: Path, things: sa.Table
) -> None:
    with locked(path):
        began = time.monotonic()
        answers = await asyncio.gather(
            *[db.execute(sa.insert(things).values(key=str(n))) for n in range(4)], return_exceptions=True
        )
        assert time.monotonic() - began < 1.5
        assert [getattr(answer, "code", None) for answer in answers] == ["storage_busy"] * 4
        assert await db.fetch_val("SELECT count(*) FROM things") == 0  # reading goes on
    assert await db.execute(sa.insert(things).values(key="a")) == 1


async def test_a_wait_for_a_lock_can_be_cancelled(db: Database, path: Path, things: sa.Table) -> None:
    with locked(path):
        task = asyncio.create_task(db.execute(sa.insert(things).values(key="a")))
        await asyncio.sleep(0.05)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 0.1
    assert await db.execute(sa.insert(things).values(key="b")) == 1


async def test_opening_the_file_again_keeps_the_locks_of_this_process(
    db: Database, path: Path, things: sa.Table
) -> None:
    """POSIX drops all locks of a process on a file as soon as it closes any descriptor of that file; another
    program that then leaves believes to be the last, and takes the write-ahead log away under us."""
    await db.execute(sa.insert(things).values(key="a"))
    again = Database(db.url)
    await again.open()
    probe = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM things'); c.close()"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", probe, str(path))
    assert await process.wait() == 0
    assert await asyncio.to_thread(Path(f"{path}-wal").exists)
    await again.close()


async def test_writing_transactions_are_served_in_order_of_arrival(db: Database) -> None:
    order: list[int] = []

    async def enter(number: int) -> None:
        async with db.transaction():
            order.append(number)
            await asyncio.sleep(0.001)

    await asyncio.gather(*[enter(number) for number in range(20)])
    assert order == list(range(20))


async def test_two_processes_write_one_file(db: Database, path: Path, things: sa.Table) -> None:
    program = (
        "import asyncio, sys\n"
        "from clavitor_host.storage.database import Database\n"
        "async def main():\n"
        "    db = Database(sys.argv[1]); await db.open()\n"
        "    for n in range(100):\n"
        "        async with db.transaction() as tx:\n"
        "            n = await tx.fetch_val(\"SELECT number FROM things WHERE key = 'counter'\")\n"
        "            await tx.execute(\"UPDATE things SET number = :n WHERE key = 'counter'\", {'n': n + 1})\n"
        "    await db.close()\n"
        "asyncio.run(main())\n"
    )
    await db.execute(sa.insert(things).values(key="counter", number=0))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, db.url)
    for _ in range(100):
        async with db.transaction() as tx:
            number = await tx.fetch_val("SELECT number FROM things WHERE key = 'counter'")
            await tx.execute("UPDATE things SET number = :n WHERE key = 'counter'", {"n": number + 1})
        await asyncio.sleep(0.001)
    assert await process.wait() == 0
    assert await db.fetch_val("SELECT number FROM things") == 200


async def test_a_point_read_uses_no_thread(db: Database, things: sa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    await db.execute(sa.insert(things).values(key="a", number=1))
    statement = PointRead(sa.select(things.c.number).where(things.c.key == sa.bindparam("key")))
    monkeypatch.setattr(db.engine, "fetch", None)
    assert await db.point_read(statement, "a") == (1,)
    coroutine = db.point_read(statement, "a")
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)  # never suspends
    assert done.value.value == (1,)


async def test_a_point_read_never_writes(db: Database) -> None:
    engine = db.engine
    assert isinstance(engine, sqlite.Engine) and engine._point is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        engine._point.execute("DELETE FROM things")


@pytest.mark.parametrize("batch", [False, True])
async def test_a_full_disk_is_told_and_survived(
    db: Database, things: sa.Table, batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may not grow; SQLite then rolls the transaction back on its own."""
    await db.execute(sa.insert(things).values(key="before"))
    engine = db.engine
    assert isinstance(engine, sqlite.Engine) and engine._writer is not None
    raw = engine._writer[1].sqlite
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count = {pages}")
    writer = GroupCommitWriter(db)
    await writer.start()

    async def apply(tx: Any, ops: Any) -> Any:
        for op in ops:
            tx.defer(things, {"key": op, "data": bytes(100_000)})
        return ops

    async def write(key: str) -> Any:
        if batch:
            return await writer.submit(apply, key)
        async with db.transaction() as tx:
            await tx.execute(sa.insert(things).values(key=key, data=bytes(100_000)))
        return key

    answers = await asyncio.gather(*[write(f"{n}") for n in range(3)], return_exceptions=True)
    assert [getattr(answer, "code", answer) for answer in answers] == ["storage_full"] * 3
    assert await db.fetch_val("SELECT count(*) FROM things") == 1
    raw.execute("PRAGMA max_page_count = 1000000")
    assert await write("after") == "after"
    await writer.stop()
    assert [r["key"] for r in await db.fetch_all("SELECT key FROM things ORDER BY key")] == ["after", "before"]


async def test_a_failed_commit_rolls_back_and_leaves_the_writer_usable(db: Database, things: sa.Table) -> None:
    for _ in range(3):
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            async with db.transaction() as tx:
                await tx.execute("PRAGMA defer_foreign_keys = ON")
                await tx.execute(sa.insert(things).values(key="orphan", parent=99))
    assert await db.execute(sa.insert(things).values(key="a")) == 1
    assert await db.fetch_val("SELECT count(*) FROM things") == 1


async def test_nothing_commits_by_itself_after_sqlite_rolled_back(db: Database, things: sa.Table) -> None:
    with pytest.raises(StorageUnavailable):
        async with db.transaction() as tx:
            await tx.execute("ROLLBACK")  # what SQLite does on some errors
            await tx.execute(sa.insert(things).values(key="stray"))
    assert await db.fetch_val("SELECT count(*) FROM things") == 0


async def test_a_removed_or_replaced_file_is_noticed_before_anything_is_acknowledged(
    db: Database, path: Path, things: sa.Table
) -> None:
    moved = path.with_name("moved.db")
    await asyncio.to_thread(path.rename, moved)
    for failing in (db.ping(), db.execute(sa.insert(things).values(key="lost"))):
        with pytest.raises(StorageUnavailable):
            await failing
    await asyncio.to_thread(path.write_bytes, b"")
    with pytest.raises(StorageUnavailable, match="replaced"):
        await db.execute(sa.insert(things).values(key="lost"))
    moved.replace(path)
    assert await db.execute(sa.insert(things).values(key="kept")) == 1


async def test_the_file_is_its_owners_only(db: Database, path: Path) -> None:
    for file in (path, Path(f"{path}-wal")):
        assert (await asyncio.to_thread(file.stat)).st_mode & 0o077 == 0


async def refusal(url: str) -> str:
    db = Database(url, busy_timeout=0.2)
    with pytest.raises(StartError) as raised:
        await db.open()
    await db.close()
    message = str(raised.value)
    assert "\n" not in message
    return message


async def test_start_errors_are_one_clear_line(tmp_path: Path) -> None:
    assert "does not exist" in await refusal(sqlite_url(tmp_path / "absent" / "vault.db"))
    assert "folder, not a file" in await refusal(sqlite_url(tmp_path))
    text = tmp_path / "text.db"
    text.write_text("This is no database, but it is long enough to have a header of its own." * 10)
    assert "not a SQLite database" in await refusal(sqlite_url(text))
    assert text.read_text().startswith("This is no database")


async def test_a_damaged_file_is_a_start_error(db: Database, path: Path) -> None:
    async with db.transaction() as tx:
        await tx.execute("CREATE TABLE filler (a)")
        await tx.execute("INSERT INTO filler SELECT randomblob(20000)")
    await db.close()
    content = bytearray(await asyncio.to_thread(path.read_bytes))
    await asyncio.to_thread(path.write_bytes, content[:8192])
    assert "damaged" in await refusal(sqlite_url(path))
    content[100:1000] = os.urandom(900)
    await asyncio.to_thread(path.write_bytes, content)
    assert "damaged" in await refusal(sqlite_url(path))


async def test_a_file_locked_by_another_program_is_a_start_error(path: Path) -> None:
    with locked(path, "BEGIN EXCLUSIVE"):
        assert "locked by another program" in await refusal(sqlite_url(path))
    db = Database(sqlite_url(path))
    await db.open()
    await db.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_an_unwritable_folder_is_a_start_error(mode: int) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from clavitor_host.storage.database import Database\n"
        "import clavitor_host.storage.sqlite\n"
        "os.setuid(65534)\n"
        "asyncio.run(Database(sys.argv[1]).open())\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(mode)
        command = [sys.executable, "-c", program, sqlite_url(Path(folder) / "vault.db")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "StartError: The database" in result.stderr and "Permission denied" in result.stderr


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///srv/vault.db", "/srv/vault.db"),
        ("sqlite:////srv/vault.db", "/srv/vault.db"),
        ("sqlite:///srv/with%20space%3F%23.db", "/srv/with space?#.db"),
    ],
)
def test_urls(url: str, path: str) -> None:
    assert sqlite_path(url) == Path(path)
    assert sqlite_path(sqlite_url(Path(path))) == Path(path)


@pytest.mark.parametrize("url", ["sqlite:vault.db", "sqlite://vault.db", "sqlite:///", "mysql://u@h/d", "vault.db", ""])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StartError):
        Database(url)


async def test_odd_file_names_work(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%41é.db"
    db = Database(sqlite_url(path))
    await db.open()
    await db.execute("CREATE TABLE t (a)")
    assert await db.fetch_val("SELECT count(*) FROM t") == 0
    await db.close()
    assert path.exists()


def test_a_program_that_forgets_to_close_still_exits(path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from clavitor_host.storage.database import Database\n"
        "async def main():\n"
        "    global db\n"
        "    db = Database(sys.argv[1]); await db.open(); await db.fetch_val('SELECT 1')\n"
        "    raise SystemExit(3)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program, sqlite_url(path)], timeout=20, check=False).returncode == 3


async def test_a_closed_database_says_so(path: Path) -> None:
    db = Database(sqlite_url(path))
    await db.open()
    await db.close()
    await db.close()
    for use in (db.fetch_val("SELECT 1"), db.execute("SELECT 1"), db.ping()):
        with pytest.raises(StorageUnavailable):
            await use
