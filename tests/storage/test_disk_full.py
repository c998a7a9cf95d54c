"""A disk that is really full: a small tmpfs, for which the tests must run as root."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.storage.backup_file import Header, Table, Writer
from clavitor_host.storage.database import Database, sqlite_url
from clavitor_host.storage.writer import GroupCommitWriter


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "clavitor", str(folder)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs root and the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler


async def test_a_full_disk_refuses_every_write_and_recovers_without_a_restart(
    small_disk: Path, things: sa.Table
) -> None:
    db = Database(sqlite_url(small_disk / "vault.db"))
    await db.open()
    await db.execute(sa.schema.CreateTable(things))
    writer = GroupCommitWriter(db)
    await writer.start()
    acknowledged: list[str] = []

    async def apply(tx: Any, keys: Any) -> Any:
        for key in keys:
            tx.defer(things, {"key": key, "data": os.urandom(20_000)})
        return keys

    async def write(key: str) -> None:
        acknowledged.append(await writer.submit(apply, key))

    await write("before")
    filler = await asyncio.to_thread(fill, small_disk)
    refused = await asyncio.gather(*[write(f"full {n}") for n in range(5)], return_exceptions=True)
    assert {getattr(error, "code", None) for error in refused} == {"storage_full"}
    with pytest.raises(Exception, match="full"):
        await db.execute(sa.insert(things).values(key="ordinary", data=os.urandom(100_000)))
    assert await db.fetch_val("SELECT count(*) FROM things") == 1  # reading goes on
    await asyncio.to_thread(filler.unlink)
    await asyncio.gather(*[write(f"after {n}") for n in range(5)])
    await writer.stop()
    await db.close()
    again = Database(db.url)
    await again.open()
    assert {row["key"] for row in await again.fetch_all("SELECT key FROM things")} == set(acknowledged)
    assert await again.fetch_val("PRAGMA integrity_check") == "ok"
    await again.close()


def test_a_backup_notices_a_full_disk(small_disk: Path) -> None:
    header = Header(0, {}, [Table("t", ["a"], 1)])
    with pytest.raises(OSError, match="No space left"), Writer(small_disk / "b", header) as writer:
        writer.begin("t")
        writer.rows([[os.urandom(20_000_000)]])
