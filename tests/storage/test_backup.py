"""Backup while serving, restore all or nothing, between either database and either."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.storage import backup_file
from clavitor_host.storage.backup import BackupError, backup, restore, verify
from clavitor_host.storage.database import Database, sqlite_url
from clavitor_host.storage.migrations import Migrations, migrate

REVISION = """
    import sqlalchemy as sa
    from alembic import op
    revision = "0001_zoo"
    down_revision = None
    def upgrade():
        op.create_table(
            "animals",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(40), unique=True, nullable=False),
            sa.Column("big", sa.BigInteger),
            sa.Column("payload", sa.JSON),
            sa.Column("flag", sa.Boolean),
            sa.Column("data", sa.LargeBinary),
            sa.Column("price", sa.Numeric(12, 2)),
            sa.Column("seen", sa.DateTime),
            sa.Column("mother", sa.Integer, sa.ForeignKey("animals.id")),
        )
        op.create_table("head", sa.Column("id", sa.Integer, primary_key=True), sa.Column("rev", sa.BigInteger))
        op.execute("INSERT INTO head (id, rev) VALUES (1, 0)")
"""
SECOND = """
    import sqlalchemy as sa
    from alembic import op
    revision = "0002_zoo"
    down_revision = "0001_zoo"
    def upgrade():
        op.add_column("head", sa.Column("more", sa.Integer, nullable=False, server_default="7"))
"""
INSERT = "INSERT INTO animals (name, big, payload, flag, mother) VALUES (:name, :big, :payload, :flag, :mother)"
COUNT = "SELECT count(*) AS n FROM animals"
Fresh = Callable[[], Awaitable[str]]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Migrations:
    name = f"zoo_{abs(hash(request.node.nodeid))}"
    folder = tmp_path / "packages" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "0001_zoo.py").write_text(textwrap.dedent(REVISION))
    (folder / "0002_zoo.py").write_text(textwrap.dedent(SECOND))
    monkeypatch.syspath_prepend(str(folder.parent))
    return Migrations("zoo", name, ("0001_zoo",), ("animals", "head"))


@pytest.fixture
def animals() -> sa.Table:
    return sa.Table(
        "animals",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(40)),
        sa.Column("big", sa.BigInteger),
        sa.Column("payload", sa.JSON),
        sa.Column("flag", sa.Boolean),
        sa.Column("data", sa.LargeBinary),
        sa.Column("price", sa.Numeric(12, 2)),
        sa.Column("seen", sa.DateTime),
        sa.Column("mother", sa.Integer),
    )


@pytest.fixture
async def full(empty: Database, zoo: Migrations, animals: sa.Table) -> Database:
    """A database with content of every kind."""
    await migrate(empty, [zoo])
    rows = [
        {"id": n, "name": f"n{n}", "big": 2**62 + n, "payload": {"a": [n, None, "é"]}, "flag": bool(n % 2)}
        | {"data": bytes([n % 256]) * 3, "mother": n + 1 if n < 1200 else None}
        for n in range(1, 1201)
    ]
    async with empty.transaction() as tx:
        await tx.insert_many(animals, list(reversed(rows)))
        await tx.execute(
            "UPDATE animals SET price = 12.5, seen = '2024-02-03 04:05:06.000007', payload = NULL WHERE id = 7"
        )
        await tx.execute("UPDATE head SET rev = 42")
    return empty


@pytest.fixture(params=["sqlite", "postgresql"])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "restored.db")
        return
    async with request.getfixturevalue("postgres_server").database() as url:
        yield url


async def content(url: str, animals: sa.Table) -> list[Any]:
    db = Database(url)
    await db.open()
    try:
        rows = await db.fetch_all(sa.select(animals).order_by(animals.c.id))
        return [*rows, await db.fetch_all("SELECT id, rev FROM head")]
    finally:
        await db.close()


async def test_everything_comes_back_on_either_database(
    full: Database, target: str, zoo: Migrations, animals: sa.Table, tmp_path: Path
) -> None:
    file = tmp_path / "vault.backup"
    progress: list[tuple[int, int]] = []
    info = await backup(full, file, [zoo], lambda done, total: progress.append((done, total)))
    assert (info.rows, info.revisions, info.left_out) == (1201, {"zoo": "0001_zoo"}, ())
    assert progress[-1] == (1201, 1201) and len(progress) >= 3
    assert verify(file).total == 1201
    assert file.stat().st_mode & 0o077 == 0
    progress.clear()
    assert (await restore(target, file, [zoo], lambda *p: progress.append(p))).rows == 1201
    await asyncio.sleep(0)
    assert progress[-1] == (1201, 1201)
    assert await content(target, animals) == await content(full.url, animals)
    db = Database(target)
    await db.open()
    await migrate(db, [zoo])
    new = await db.fetch_val(sa.insert(animals).values(name="new").returning(animals.c.id))
    assert new == 1201  # the sequence goes on
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        await db.execute("INSERT INTO animals (id, name, mother) VALUES (5000, 'x', 9999)")
    await db.close()


async def test_a_backup_of_an_older_schema_is_restored_and_migrated_on(
    full: Database, target: str, zoo: Migrations, tmp_path: Path
) -> None:
    await backup(full, tmp_path / "b", [zoo])
    newer = Migrations(zoo.name, zoo.package, ("0001_zoo", "0002_zoo"), zoo.tables)
    await restore(target, tmp_path / "b", [newer])
    db = Database(target)
    await db.open()
    await migrate(db, [newer])
    assert await db.fetch_one("SELECT * FROM head") == {"id": 1, "rev": 42, "more": 7}
    await db.close()


async def test_a_backup_of_a_newer_schema_or_of_absent_plugins_is_refused(
    full: Database, target: str, zoo: Migrations, tmp_path: Path
) -> None:
    newer = Migrations(zoo.name, zoo.package, ("0001_zoo", "0002_zoo"), zoo.tables)
    await migrate(full, [newer])
    await backup(full, tmp_path / "b", [newer])
    with pytest.raises(BackupError, match="newer program"):
        await restore(target, tmp_path / "b", [zoo])
    with pytest.raises(BackupError, match="not in this build: zoo"):
        await restore(target, tmp_path / "b", [])


async def test_a_target_that_is_not_empty_needs_force(
    full: Database, zoo: Migrations, animals: sa.Table, tmp_path: Path
) -> None:
    await backup(full, tmp_path / "b", [zoo])
    before = await content(full.url, animals)
    await full.execute("DELETE FROM animals WHERE id < 600")
    await full.close()
    with pytest.raises(BackupError, match="not empty"):
        await restore(full.url, tmp_path / "b", [zoo])
    await restore(full.url, tmp_path / "b", [zoo], force=True)
    assert await content(full.url, animals) == before


async def test_a_database_in_use_is_refused(full: Database, zoo: Migrations, tmp_path: Path) -> None:
    await backup(full, tmp_path / "b", [zoo])
    with pytest.raises(BackupError, match="in use"):
        await restore(full.url, tmp_path / "b", [zoo], force=True)
    assert await full.fetch_val(COUNT) == 1200


@pytest.mark.parametrize("damage", ["flip", "cut", "cut tail", "empty", "text", "gzip of text", "sum", "extra"])
async def test_a_damaged_file_changes_nothing(
    full: Database, zoo: Migrations, animals: sa.Table, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "b"
    await backup(full, file, [zoo])
    before = await content(full.url, animals)
    await full.close()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    lines = gzip.decompress(whole)
    damaged = {
        "flip": bytes(flipped),
        "cut": whole[: len(whole) // 2],
        "cut tail": whole[:-9],
        "empty": b"",
        "text": b"hello" * 100,
        "gzip of text": gzip.compress(b"hello\n" * 100),
        "sum": gzip.compress(lines.replace(b'"n77"', b'"n7x"')),
        "extra": whole + gzip.compress(b"more\n"),
    }[damage]
    file.write_bytes(damaged)
    with pytest.raises(BackupError) as raised:
        await restore(full.url, file, [zoo], force=True)
    assert "\n" not in str(raised.value)
    assert await content(full.url, animals) == before


async def test_a_restore_that_fails_half_way_changes_nothing(
    full: Database, zoo: Migrations, animals: sa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backup(full, tmp_path / "b", [zoo])
    before = await content(full.url, animals)
    await full.close()

    decode = backup_file.decode
    calls = 0

    def failing(line: bytes) -> list[Any]:
        nonlocal calls
        calls += 1
        if calls == 900:
            raise OSError(5, "Input/output error")
        return decode(line)

    monkeypatch.setattr("clavitor_host.storage.restoring.decode", failing)
    with pytest.raises(BackupError, match="Input/output error"):
        await restore(full.url, tmp_path / "b", [zoo], force=True)
    assert await content(full.url, animals) == before


async def test_a_backup_is_one_moment_while_writes_go_on(
    full: Database, zoo: Migrations, animals: sa.Table, tmp_path: Path
) -> None:
    """Each transaction adds to `head.rev` and one animal; a backup must see both or neither."""
    stop = asyncio.Event()

    async def write() -> None:
        number = 10_000
        while not stop.is_set():
            number += 1
            async with full.transaction() as tx:
                await tx.execute(sa.insert(animals).values(id=number, name=str(number)))
                await tx.execute("UPDATE head SET rev = rev + 1")

    writing = asyncio.create_task(write())
    for _ in range(3):
        await backup(full, tmp_path / "b", [zoo])
        header = verify(tmp_path / "b")
        lines = gzip.decompress((tmp_path / "b").read_bytes()).splitlines()
        rev = int(lines[-2].strip(b"[]").split(b",")[1])
        assert {each.name: each.rows for each in header.tables}["animals"] - 1200 == rev - 42
    stop.set()
    await writing


async def test_a_backup_that_fails_leaves_the_old_file_and_no_rest(
    full: Database, zoo: Migrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    await backup(full, folder / "b", [zoo])
    old = (folder / "b").read_bytes()

    def failing(self: Any, rows: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_file.Writer, "rows", failing)
    with pytest.raises(BackupError, match="No space left"):
        await backup(full, folder / "b", [zoo])
    assert [each.name for each in folder.iterdir()] == ["b"]
    assert (folder / "b").read_bytes() == old
    with pytest.raises(BackupError, match="No such file"):
        await backup(full, tmp_path / "absent" / "b", [zoo])


async def test_a_cancelled_backup_stops_and_leaves_nothing(full: Database, zoo: Migrations, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    started = asyncio.Event()
    task = asyncio.create_task(backup(full, folder / "b", [zoo], lambda done, total: started.set()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {each.name for each in folder.iterdir()} <= {"b"}


async def test_tables_of_nobody_are_named(full: Database, zoo: Migrations, tmp_path: Path) -> None:
    await full.execute("CREATE TABLE stray (a integer)")
    assert (await backup(full, tmp_path / "b", [zoo])).left_out == ("stray",)


async def test_an_unmigrated_database_has_nothing_to_back_up(empty: Database, zoo: Migrations, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="never migrated"):
        await backup(empty, tmp_path / "b", [zoo])


async def test_a_restored_file_is_sound(full: Database, zoo: Migrations, tmp_path: Path) -> None:
    await backup(full, tmp_path / "b", [zoo])
    path = tmp_path / "restored.db"
    await restore(sqlite_url(path), tmp_path / "b", [zoo])
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA page_size").fetchone() == (8192,)
    connection.close()
