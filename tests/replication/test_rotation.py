"""The shared secret is replaced while writes go on; neither POP restarts."""

from __future__ import annotations

import asyncio
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.faults.workload import Ledger, eventually
from tests.replication.invariants import ask, check
from tests.replication.pair import SECRET
from tests.replication.workload import Writing

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair

pytestmark = pytest.mark.timeout(180)

NEXT = "the second secret, which both of them will know"
LAST = "the third secret, given to one of them too early"


async def _taken_from_now_on(pair: Pair) -> None:
    """Wait for the backup's confirmation of something that is sent from now on."""
    (before,) = await ask(pair.primary, "SELECT acked_at FROM replication_peer")

    async def confirmed() -> bool:
        (now,) = await ask(pair.primary, "SELECT acked_at FROM replication_peer")
        return bool(now["acked_at"] > before["acked_at"])

    await eventually(confirmed, within=75)


async def _failures(pair: Pair) -> float:
    async with httpx.AsyncClient(base_url=pair.primary.url) as client:
        text = (await client.get("/api/v1/prometheus")).text
    lines = [line for line in text.splitlines() if line.startswith("clavitor_replication_failures_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def _shown(pair: Pair, secret: str) -> int:
    """Return what the backup answers to an empty request of somebody who knows `secret`."""
    pop, day = pair.primary.name, datetime.now(UTC).strftime("%Y-%m-%d")
    bearer = hmac.digest(secret.encode(), f"{pop}\n{day}".encode(), "sha256").hex()
    async with httpx.AsyncClient(base_url=pair.backup.url) as client:
        answer = await client.post(
            "/api/replication/apply",
            json={"source_pop": pop, "entries": []},
            headers={"Authorization": f"Bearer pop.{pop}.{bearer}"},
        )
    return answer.status_code


async def test_the_secret_is_replaced_under_load(two: Two) -> None:
    pair = two()
    ledger = Ledger()
    load = Writing(ledger, 31, pause=0.02)
    async with load.on(pair.primary):
        await load.wrote(20)
        await _taken_from_now_on(pair)
        pair.backup.share(NEXT, SECRET)
        assert [await _shown(pair, secret) for secret in (SECRET, NEXT, LAST)] == [200, 200, 401]
        await load.wrote(20)
        await _taken_from_now_on(pair)
        pair.primary.share(NEXT, SECRET)
        await load.wrote(20)
        await _taken_from_now_on(pair)
        pair.backup.share(NEXT)
        await load.wrote(20)
        await asyncio.sleep(1)
        await _taken_from_now_on(pair)
        pair.primary.share(NEXT)
        await load.wrote(20)
        await _taken_from_now_on(pair)
        assert [await _shown(pair, secret) for secret in (SECRET, NEXT)] == [401, 200], "the old one ends at once"
        assert await _failures(pair) <= 1, "the old secret was refused once, and the new one read"
        pair.primary.share(LAST)  # in the wrong order, with a restart: nothing is taken until both know it
        await asyncio.to_thread(pair.primary.kill)
        await asyncio.to_thread(pair.primary.start)
        await load.wrote(20)

        async def refused() -> bool:
            return await _failures(pair) > 0

        await eventually(refused)
        pair.backup.share(LAST)
        await load.wrote(20)
        await _taken_from_now_on(pair)
    await check(pair, ledger)
    for pop in pair.pops:
        pop.terminate()
        assert pop.process.returncode == 0
        assert "Traceback" not in pop.log
        assert not any(secret in pop.log for secret in (SECRET, NEXT, LAST))
