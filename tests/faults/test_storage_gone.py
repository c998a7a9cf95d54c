"""The disk is full, the disk fails, PostgreSQL goes away: an honest 503, nothing acknowledged is lost, no restart."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest

from clavitor_host.storage.database import sqlite_url
from clavitor_host.testing.postgres import URL_VARIABLE, PostgresServer, missing
from tests.faults.workload import Ledger, Load, check, check_history, check_integrity, eventually

if TYPE_CHECKING:
    from clavitor_host.testing.process import ServerProcess
    from tests.faults.conftest import Serve

SIZE = 24 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of `SIZE` bytes."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a full disk needs root and mount(8): it is a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(file: Path) -> None:
    """Leave no free byte."""
    with file.open("wb", buffering=0) as ballast:
        for size in (1024 * 1024, 4096, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


async def _refuses(load: Load, *codes: str, count: int = 20) -> None:
    """Wait until that many writes were refused with one of these codes."""
    before = sum(load.ledger.statuses[code] for code in codes)

    async def refused() -> bool:
        return sum(load.ledger.statuses[code] for code in codes) - before >= count

    await eventually(refused, within=60)


async def _readable(server: ServerProcess, ledger: Ledger) -> None:
    """Read what was acknowledged, as far as no client has a request under way for it."""
    async with httpx.AsyncClient(base_url=server.url, headers=server.authorization) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/api/entries?limit=5")).status_code == 200
        for entry_id, (rev, blob) in list(ledger.promised.items())[:10]:
            answer = await client.get(f"/api/entries/{entry_id}")
            if blob is None:
                assert answer.status_code in (200, 404)
            elif answer.json().get("rev") == rev:
                assert answer.json()["encrypted_data"] == blob
            else:
                assert answer.status_code in (200, 404)


def _ended_well(server: ServerProcess) -> None:
    assert server.terminate() < 5
    assert server.process.returncode == 0
    assert "Traceback" not in server.log
    assert server.run("audit", "verify").returncode == 0


async def test_a_full_disk_refuses_writes_and_nothing_else(serve: Serve, small_disk: Path) -> None:
    server = serve(data_dir=small_disk / "data")
    ledger = Ledger()
    ballast = small_disk / "ballast"
    load = Load(ledger, seed=5, again=True)
    assert server.token
    async with load.on(server):
        for _ in range(2):
            await load.wrote(50)
            _fill(ballast)
            await _refuses(load, "storage_full")
            await _readable(server, ledger)
            ballast.unlink()
            await load.wrote(50)  # without a restart
    assert ledger.statuses["no answer"] == 0
    await check(server, ledger)
    check_integrity(server.data_dir / "vault.db")
    _fill(ballast)
    server.kill()  # and no acknowledged write is lost when it dies on a full disk
    ballast.unlink()
    server.start()
    await check(server, ledger)
    await check_history(sqlite_url(server.data_dir / "vault.db"), ledger)
    check_integrity(server.data_dir / "vault.db")
    _ended_well(server)


async def test_a_disk_that_fails_to_sync_refuses_writes_and_recovers(serve: Serve) -> None:
    if shutil.which("strace") is None:
        pytest.skip("a failing fsync needs strace: install strace")
    server = serve()
    ledger = Ledger()
    load = Load(ledger, seed=6, again=True)
    assert server.token
    async with load.on(server):
        await load.wrote(20)
        strace = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-o", os.devnull, "-e", "trace=fdatasync,fsync"),
            *("-e", "inject=fdatasync,fsync:error=EIO", "-p", str(server.pid)),
            stderr=subprocess.PIPE,
        )
        try:
            assert strace.stderr is not None
            line = await asyncio.wait_for(strace.stderr.readline(), 20)
            if b"attached" not in line:
                pytest.skip(f"strace cannot attach here: {line.decode().strip()}")
            await _refuses(load, "storage_unavailable")
            await _readable(server, ledger)
        finally:
            if strace.returncode is None:
                strace.send_signal(signal.SIGINT)
                await strace.wait()
        await load.wrote(50)
    await check(server, ledger)
    await check_history(sqlite_url(server.data_dir / "vault.db"), ledger)
    check_integrity(server.data_dir / "vault.db")
    _ended_well(server)


async def test_postgresql_goes_away_and_comes_back(serve: Serve) -> None:
    if os.environ.get(URL_VARIABLE):
        pytest.skip(f"stops a PostgreSQL of its own: unset {URL_VARIABLE}")
    reason = missing()
    if reason:
        pytest.skip(reason)
    postgres = PostgresServer.start(Path(tempfile.gettempdir()) / f"clavitor-pg-{uuid4().hex}")  # its user may enter
    try:
        async with postgres.database() as url:
            server = serve(database_url=url)
            ledger = Ledger()
            load = Load(ledger, seed=8, again=True)
            assert server.token
            async with load.on(server), httpx.AsyncClient(base_url=server.url) as client:
                for _ in range(3):
                    await load.wrote(40)
                    await asyncio.to_thread(postgres.stop, "immediate")
                    await _refuses(load, "storage_unavailable", count=10)
                    away = await client.get("/readyz")
                    assert away.status_code == 503
                    assert away.json()["checks"]["database"] != "ok"
                    assert (await client.get("/healthz")).status_code == 200
                    read = await client.get("/api/entries/x", headers=server.authorization)
                    assert read.status_code == 503
                    assert int(read.headers["retry-after"]) > 0
                    await asyncio.to_thread(postgres.resume)
                    await load.wrote(40)  # without a restart

                    async def ready() -> bool:
                        return (await client.get("/readyz")).status_code == 200

                    await eventually(ready)
            await check(server, ledger)
            await check_history(url, ledger)
            assert ledger.statuses["no answer"] == 0
            assert ledger.statuses[500] == 0
            _ended_well(server)
    finally:
        postgres.cleanup()
