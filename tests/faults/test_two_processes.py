"""Two processes on one PostgreSQL, as two machines would be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx

from tests.faults.workload import Ledger, Load, Wire, check, check_history

if TYPE_CHECKING:
    from clavitor_host.testing.process import ServerProcess
    from tests.faults.conftest import Serve


class Follower:
    """A client that mirrors the change feed, asking another server every time."""

    def __init__(self, *servers: ServerProcess) -> None:
        self.servers = servers
        self.state: dict[str, tuple[int, str | None]] = {}
        self.since = 0

    async def follow(self, until: asyncio.Event) -> None:
        wires = [await Wire.open(server.address, server.token) for server in self.servers]
        turn = 0
        while True:
            last = until.is_set()
            more = True
            while more:
                wire = wires[turn % len(wires)]
                turn += 1
                status, _, page = await wire.request("GET", f"/api/changes?since={self.since}&limit=7&include=data")
                assert status == 200
                for change in page["changes"]:
                    assert change["rev"] > self.since, "the feed goes forward only"
                    self.since = change["rev"]
                    blob = None if change["deleted"] else change["encrypted_data"]
                    self.state[change["entry_id"]] = (change["rev"], blob)
                more = page["more"]
            if last:
                break
        for wire in wires:
            await wire.close()


async def test_two_processes_on_one_postgresql_both_write(serve: Serve, postgres_url: str) -> None:
    one = serve(name="one", database_url=postgres_url)
    two = serve(name="two", database_url=postgres_url)
    two.token = one.token
    ledger = Ledger()
    follower, finished = Follower(one, two), asyncio.Event()
    following = asyncio.create_task(follower.follow(finished))
    load = Load(ledger, seed=7, clients=10)
    async with load.on(one, two):
        await load.wrote(600, within=60)
    finished.set()
    await following
    assert set(ledger.statuses) <= {200, 201, 204, 404}, ledger.statuses
    await check(one, ledger)
    await check(two, ledger)
    assert follower.state == ledger.promised
    await check_history(postgres_url, ledger)
    for server in (one, two):
        server.terminate()
        assert server.process.returncode == 0
        assert " ERROR " not in server.log
    assert one.run("audit", "verify").returncode == 0


async def test_a_token_revoked_on_one_is_refused_on_the_other_at_once(serve: Serve, postgres_url: str) -> None:
    one = serve(name="one", database_url=postgres_url)
    two = serve(name="two", database_url=postgres_url)
    async with (
        httpx.AsyncClient(base_url=one.url, headers=one.authorization) as admin,
        httpx.AsyncClient(base_url=two.url) as other,
    ):
        for _ in range(5):
            made = await admin.post("/api/v1/admin/tokens", json={"name": "short"})
            assert made.status_code == 201, made.text
            headers = {"Authorization": f"Bearer {made.json()['token']}"}
            for path in ("/api/v1/me", "/api/changes"):
                assert (await other.get(path, headers=headers)).status_code == 200
            revoked = await admin.delete(f"/api/v1/admin/tokens/{made.json()['id']}")
            assert revoked.status_code in (200, 204)
            for path in ("/api/v1/me", "/api/changes", "/api/entries/x"):
                assert (await other.get(path, headers=headers)).status_code == 401
