"""Several workers: one is killed and replaced, exclusive jobs run once, metrics are one, and all end together."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from clavitor_host.testing.process import ServerProcess
from tests.faults.ticking import VARIABLE
from tests.faults.workload import eventually

if TYPE_CHECKING:
    from tests.faults.conftest import Serve

TICKING = (sys.executable, str(Path(__file__).with_name("ticking.py")))


def _worker_of(answer: httpx.Response) -> int:
    return int(answer.headers["x-request-id"].partition("-")[0], 16)


async def _ask_all(server: ServerProcess, *, workers: int) -> int:
    """Ask for /api/v1/me over new connections until that many workers have answered; return how often."""
    asked = 0
    seen: set[int] = set()
    async with asyncio.timeout(30):
        while len(seen) < workers:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=server.url)) for _ in range(12)]
                for answer in await asyncio.gather(*(client.get("/api/v1/me") for client in clients)):
                    assert answer.status_code == 401
                    asked += 1
                    seen.add(_worker_of(answer))
    return asked


async def _counted(server: ServerProcess) -> float:
    """Return how many requests for /api/v1/me the metrics tell of."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        text = (await client.get("/api/v1/prometheus")).text
    found = re.findall(r'clavitor_http_requests_total\{method="GET",route="/api/v1/me",status="401"\} (\S+)', text)
    assert len(found) == 1, text
    return float(found[0])


async def test_a_killed_worker_is_replaced_and_the_metrics_of_all_are_one(serve: Serve) -> None:
    server = serve(workers=2)

    async def complete() -> bool:
        return len(server.worker_pids()) == 2

    await eventually(complete)
    before = set(server.worker_pids())
    asked = await _ask_all(server, workers=2)
    assert await _counted(server) == asked
    victim = min(before)
    os.kill(victim, signal.SIGKILL)

    async def replaced() -> bool:
        return len(server.worker_pids()) == 2 and victim not in server.worker_pids()

    await eventually(replaced)
    asked += await _ask_all(server, workers=2)
    assert await _counted(server) == asked  # a counter of a dead worker still counts
    assert "Worker died; replacing it" in server.last_log
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait() == 0
    assert server.wait_workers_gone(5)


async def test_an_exclusive_job_runs_in_one_worker_at_a_time(serve: Serve, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    ticks.touch()
    server = serve(workers=3, program=TICKING, environ={VARIABLE: str(ticks)})

    def pids() -> list[int]:
        return [int(line.split()[1]) for line in ticks.read_text().splitlines()]

    async def ticked() -> bool:
        return len(pids()) >= 20 and len(server.worker_pids()) == 3

    await eventually(ticked)
    first = pids()[0]
    assert set(pids()) == {first}
    os.kill(first, signal.SIGTERM)  # its lease is given back, so another worker takes over at once

    async def taken_over() -> bool:
        return pids()[-1] != first and pids().count(pids()[-1]) >= 10

    await eventually(taken_over)
    server.terminate()
    assert server.process.returncode == 0
    lines = ticks.read_text().splitlines()
    assert len(set(pids())) >= 2
    for number, line in enumerate(lines):  # begin, end, begin, end: never two at once
        what, pid = line.split()
        assert what == ("begin", "end")[number % 2], lines[max(0, number - 3) : number + 2]
        if what == "end":
            assert pid == lines[number - 1].split()[1]


async def test_sigterm_ends_every_worker_with_code_0(serve: Serve) -> None:
    server = serve(workers=3)

    async def complete() -> bool:
        return len(server.worker_pids()) == 3

    await eventually(complete)
    await _ask_all(server, workers=2)
    server.terminate()
    assert server.process.returncode == 0
    assert server.wait_workers_gone(0)  # they went before their supervisor
    assert "Worker died" not in server.last_log
