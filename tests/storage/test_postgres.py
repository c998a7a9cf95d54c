"""PostgreSQL: start errors, lost connections, restarts, and what a COMMIT really did."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from clavitor_host.errors import StartError, StorageUnavailable
from clavitor_host.storage.database import Database, PointRead, display_url
from clavitor_host.storage.errors import OutcomeUnknown
from clavitor_host.storage.writer import GroupCommitWriter
from clavitor_host.testing.postgres import PostgresServer

COUNT = "SELECT count(*) AS n FROM things"


@pytest.fixture
async def db(postgres_url: str, things: sa.Table) -> AsyncIterator[Database]:
    db = Database(postgres_url, pool_size=3, busy_timeout=0.5)
    await db.open()
    await db.execute(sa.schema.CreateTable(things))
    yield db
    await db.close()


class Cable:
    """A TCP port in front of the server that can be cut, at once or when COMMIT passes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._writers: list[asyncio.StreamWriter] = []
        self.cut_at_commit: str | None = None
        self.url = ""

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self._url)
        self.url = parts._replace(netloc=f"{parts.username}:@127.0.0.1:{port}", query="").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._url)
        if "host=" in parts.query:
            folder = parts.query.partition("host=")[2].partition("&")[0]
            far_reader, far_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        else:
            far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pump(reader, far_writer, True), self._pump(far_reader, writer, False))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if up and b"COMMIT\0" in data and self.cut_at_commit == "before":
                    self.cut()
                    return
                if up and b"COMMIT\0" in data and self.cut_at_commit == "after":
                    target.write(data)
                    return  # the server commits; its answer below finds the cable cut
                if not up and self.cut_at_commit == "after" and b"COMMIT\0" in data:
                    self.cut()
                    return
                target.write(data)
                await target.drain()
            target.close()


async def refusal(url: str) -> str:
    db = Database(url)
    with pytest.raises(StartError) as raised:
        await db.open()
    message = str(raised.value)
    assert "\n" not in message
    assert "hunter2" not in message
    return message


async def test_start_errors_are_one_clear_line(postgres_server: PostgresServer, postgres_url: str) -> None:
    assert "cannot be reached (connection refused)" in await refusal("postgresql://u:hunter2@127.0.0.1:1/vault")
    assert "no database 'absent'" in await refusal(postgres_server.database_url("absent"))
    assert "cannot be reached" in await refusal("postgresql://u:hunter2@name.invalid/vault")
    assert "not usable" in await refusal("postgresql://u:hunter2@127.0.0.1:port/vault")
    await postgres_server.run("DROP ROLE IF EXISTS clavitor_locked_out")
    await postgres_server.run("CREATE ROLE clavitor_locked_out NOLOGIN PASSWORD 'hunter2'")
    parts = urlsplit(postgres_url)
    host = parts.netloc.rpartition("@")[2]
    stranger = parts._replace(netloc=f"clavitor_locked_out:hunter2@{host}").geturl()
    assert "refused the login of user 'clavitor_locked_out'" in await refusal(stranger)


async def test_sslmode_of_the_url_counts(postgres_url: str) -> None:
    """`databases` drops it silently and would talk in the clear."""
    joint = "&" if "?" in postgres_url else "?"
    async with Cable(postgres_url) as cable:
        assert "cannot" in await refusal(f"{cable.url}?sslmode=require")
        assert joint


def test_no_password_is_shown() -> None:
    assert display_url("postgresql://u:hunter2@h:5/d?sslmode=require") == "postgresql://u@h:5/d?sslmode=require"
    assert "hunter2" not in display_url("postgresql://u@h/d?password=hunter2")
    assert "hunter2" not in display_url("postgresql://u:hunter2:x@h/d")


async def test_a_commit_of_a_failed_transaction_is_not_a_success(db: Database, things: sa.Table) -> None:
    """PostgreSQL answers such a COMMIT with ROLLBACK, and no error."""
    for _ in range(5):  # more often than the pool has slots
        tx = await db.begin()
        await tx.execute(sa.insert(things).values(key="a"))
        session: Any = tx._session
        with pytest.raises(Exception, match="nowhere"):
            await session._connection.raw_connection.execute("SELECT nowhere")
        with pytest.raises(StorageUnavailable):
            await tx.commit()
    assert await db.fetch_val(COUNT) == 0


async def test_transactions_are_read_committed_and_durable_whatever_the_server_defaults_to(
    db: Database, postgres_server: PostgresServer
) -> None:
    name = urlsplit(db.url).path[1:]
    await postgres_server.run(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    await postgres_server.run(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    other = Database(db.url)
    await other.open()
    async with other.transaction() as tx:
        assert await tx.fetch_val("SHOW transaction_isolation") == "read committed"
        assert await tx.fetch_val("SHOW synchronous_commit") == "on"
    await other.close()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_outcome_is_unknown_is_never_a_success(db: Database, things: sa.Table, cut: str) -> None:
    async with Cable(db.url) as cable:
        far = Database(cable.url, pool_size=2)
        await far.open()
        cable.cut_at_commit = cut
        with pytest.raises(OutcomeUnknown, match="read back"):
            async with far.transaction() as tx:
                await tx.execute(sa.insert(things).values(key="a"))
        cable.cut_at_commit = None
        assert await db.fetch_val(COUNT) == (0 if cut == "before" else 1)
        assert await far.fetch_val(COUNT) == (0 if cut == "before" else 1)
        await far.close()


async def test_a_batch_with_an_unknown_outcome_is_not_tried_twice(db: Database, things: sa.Table) -> None:
    async def apply(tx: Any, ops: Any) -> Any:
        await tx.insert_many(things, [{"key": op} for op in ops])
        return ops

    async with Cable(db.url) as cable:
        far = Database(cable.url)
        await far.open()
        writer = GroupCommitWriter(far)
        await writer.start()
        cable.cut_at_commit = "after"
        answers = await asyncio.gather(*[writer.submit(apply, str(n)) for n in range(3)], return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutcomeUnknown] * 3
        cable.cut_at_commit = None
        assert await writer.submit(apply, "next") == "next"
        await writer.stop()
        await far.close()
    assert await db.fetch_val(COUNT) == 4


async def test_lost_connections_are_replaced(db: Database, things: sa.Table) -> None:
    read = PointRead(sa.select(things.c.key).where(things.c.key == sa.bindparam("key")))
    async with Cable(db.url) as cable:
        far = Database(cable.url, pool_size=3)
        await far.open()
        for _ in range(5):  # more often than the pool has slots
            with pytest.raises(StorageUnavailable):
                async with far.transaction() as tx:
                    await tx.execute(sa.insert(things).values(key="a"))
                    cable.cut()
                    await tx.fetch_val(COUNT)
        assert await far.point_read(read, "a") is None
        assert await far.execute(sa.insert(things).values(key="b")) == 1
        await far.close()


async def test_every_connection_in_use_is_busy_after_a_while(db: Database) -> None:
    enough = asyncio.Event()

    async def hold() -> None:
        async with db.transaction():
            await enough.wait()

    holders = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0.05)
    for use in (db.fetch_val("SELECT 1"), db.execute("SELECT 1")):
        with pytest.raises(StorageUnavailable) as raised:
            await use
        assert raised.value.code == "storage_busy"
    enough.set()
    await asyncio.gather(*holders)
    assert await db.fetch_val("SELECT 1") == 1


async def test_a_failed_begin_leaks_no_slot(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db.engine, "_begin", "BEGIN NONSENSE")
    for _ in range(6):
        with pytest.raises(Exception, match="syntax"):
            await db.execute("SELECT 1")
    monkeypatch.undo()
    await db.execute("SELECT 1")


async def test_no_transaction_state_outlives_a_connections_use(db: Database) -> None:
    engine: Any = db.engine
    connection = await engine._source.pool.acquire()
    await connection.execute("BEGIN")
    await engine._source.pool.release(connection)
    stuck = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %'"
    assert await db.fetch_val(stuck) == 0


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server of one's own, to be stopped and started."""
    del postgres_server
    import tempfile

    with tempfile.TemporaryDirectory(prefix="clavitor-own-") as folder:
        server = PostgresServer.start(Path(folder) / "data")
        yield server
        server.cleanup()


async def test_a_restarted_server_is_used_again_without_a_restart_of_ours(
    own_server: PostgresServer, things: sa.Table
) -> None:
    async def apply(tx: Any, ops: Any) -> Any:
        await tx.insert_many(things, [{"key": op} for op in ops])
        return ops

    async with own_server.database() as url:
        db = Database(url, busy_timeout=1)
        await db.open()
        await db.execute(sa.schema.CreateTable(things))
        writer = GroupCommitWriter(db)
        await writer.start()
        assert await writer.submit(apply, "before") == "before"
        await asyncio.to_thread(own_server.stop)
        for use in (writer.submit(apply, "lost"), db.fetch_val(COUNT), db.ping(), db.execute("SELECT 1")):
            with pytest.raises(StorageUnavailable):
                await use
        await asyncio.to_thread(own_server.resume)
        assert await writer.submit(apply, "after") == "after"
        assert [row["key"] for row in await db.fetch_all("SELECT key FROM things ORDER BY key")] == ["after", "before"]
        await db.ping()
        await writer.stop()
        await db.close()


async def test_bulk_writes_are_one_statement(db: Database, things: sa.Table) -> None:
    tx = await db.begin()
    executed: list[str] = []
    session: Any = tx._session
    execute = session._connection.execute

    async def spy(query: Any) -> Any:
        executed.append(query.sql)
        return await execute(query)

    session._connection.execute = spy
    await tx.insert_many(things, [{"key": str(n), "number": n} for n in range(64)])
    await tx.rollback()
    assert len(executed) == 1 and "unnest($1::VARCHAR(100)[], $2::BIGINT[])" in executed[0]


_WHO_IMPORTS = """
import asyncio, sys, threading

class Watch:
    threads = set()

    def find_spec(self, name, path=None, target=None):
        if name.startswith("sqlalchemy.orm"):
            self.threads.add(threading.current_thread() is threading.main_thread())

sys.meta_path.insert(0, Watch())
from clavitor_host.storage import maintenance
assert asyncio.run(maintenance.run(sys.argv[1], lambda connection: 7)) == 7
assert Watch.threads == {True}, Watch.threads
"""


async def test_maintenance_does_not_import_in_a_thread_what_statements_need(postgres_url: str) -> None:
    """While `sqlalchemy.orm` is being imported elsewhere, a statement can find half of it, and fails."""
    python = await asyncio.create_subprocess_exec(sys.executable, "-c", _WHO_IMPORTS, postgres_url)
    assert await python.wait() == 0
