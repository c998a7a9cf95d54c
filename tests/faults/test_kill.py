"""kill -9 at any moment: what got a 2xx is there, whole, and the history has no gap."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from clavitor_host.storage.database import sqlite_url
from tests.faults.workload import Ledger, Load, check, check_history, check_integrity

if TYPE_CHECKING:
    from clavitor_host.testing.process import ServerProcess
    from tests.faults.conftest import Serve

pytestmark = pytest.mark.timeout(300)


def _database(server: ServerProcess) -> str:
    return server.environ.get("CLAVITOR_DATABASE_URL") or sqlite_url(server.data_dir / "vault.db")


async def _verified(server: ServerProcess, ledger: Ledger) -> None:
    await check(server, ledger)
    await check_history(_database(server), ledger)
    if "CLAVITOR_DATABASE_URL" not in server.environ:
        check_integrity(server.data_dir / "vault.db")


async def _kill_under_load(server: ServerProcess, rounds: int, seed: int) -> Ledger:
    """Kill the server at random moments under load and start it again, checking everything each time."""
    chance = random.Random(seed)
    ledger = Ledger()
    for number in range(rounds):
        load = Load(ledger, seed + number)
        async with load.on(server):
            await load.wrote(1)
            await asyncio.sleep(chance.uniform(0, 0.25))  # the moment is the point
            server.kill()
        if number % 6 == 5:  # and at any moment of the start that has to recover
            server.start(ready=False)
            await asyncio.sleep(chance.uniform(0, 1.0))
            server.kill()
        server.start()
        await _verified(server, ledger)
    assert server.terminate() < 5
    assert server.process.returncode == 0
    assert ledger.statuses["no answer"] >= rounds  # it died with work on its hands
    verified = server.run("audit", "verify")
    assert verified.returncode == 0, verified
    return ledger


async def test_30_kills_of_one_process_on_sqlite(serve: Serve) -> None:
    ledger = await _kill_under_load(serve(), 30, seed=1)
    assert len(ledger.acknowledged) > 300


async def test_5_kills_of_one_process_on_postgresql(serve: Serve, postgres_url: str) -> None:
    await _kill_under_load(serve(database_url=postgres_url), 5, seed=2)


async def test_5_kills_of_a_worker(serve: Serve) -> None:
    server = serve(workers=2)
    chance = random.Random(3)
    ledger = Ledger()
    for number in range(5):
        load = Load(ledger, 300 + number, again=True)
        async with load.on(server):
            await load.wrote(5)
            await asyncio.sleep(chance.uniform(0, 0.1))
            os.kill(chance.choice(server.worker_pids()), signal.SIGKILL)
            await load.wrote(30)  # the service goes on
        await _verified(server, ledger)
    assert server.terminate() < 5  # a worker may be starting
    assert server.process.returncode == 0
    assert server.wait_workers_gone(5)
    assert server.run("audit", "verify").returncode == 0


async def test_5_kills_of_the_supervisor(serve: Serve) -> None:
    server = serve(workers=2)
    chance = random.Random(4)
    ledger = Ledger()
    for number in range(5):
        load = Load(ledger, 400 + number)
        async with load.on(server):
            await load.wrote(5)
            await asyncio.sleep(chance.uniform(0, 0.1))
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
        assert server.wait_workers_gone(10), "workers outlive their supervisor"
        server.start()
        await _verified(server, ledger)
    assert server.run("audit", "verify").returncode == 0
