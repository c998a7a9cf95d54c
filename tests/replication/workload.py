"""Clients of a primary: those of `tests.faults.workload` at a bearable pace over more entries, and many at once."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any

from clavitor_host.testing.process import ServerProcess
from tests.faults.workload import Ledger, Load, Wire, Writes

ENTRIES = 120
"""Entries of each client."""


class Writing(Load):
    """Puts, deletes, entries made again under the same id, and batches: about `clients / pause` requests a second."""

    def __init__(self, ledger: Ledger, seed: int, *, clients: int = 4, pause: float = 0.01, again: bool = True) -> None:
        super().__init__(ledger, seed, clients=clients, again=again)
        self._pause = pause

    async def _one(self, number: int, wire: Wire) -> None:
        await super()._one(number, wire)
        await asyncio.sleep(self._pause)

    def _choose(self, number: int) -> tuple[str, str, Any, Writes]:
        kind = self._random.random()
        if kind < 0.2:
            ids = self._random.sample(range(ENTRIES), self._random.randint(2, 40))
            writes: Writes = {f"c{number}-{n}": self._blob() for n in ids}
            operations = [{"operation": "put", "entry_id": e, "encrypted_data": d} for e, d in writes.items()]
            return "POST", "/api/entries/batch", {"operations": operations}, writes
        shared = self._random.random() < 0.2
        entry_id = f"shared-{self._random.randrange(4)}" if shared else f"c{number}-{self._random.randrange(ENTRIES)}"
        if kind < 0.4:
            return "DELETE", f"/api/entries/{entry_id}", None, {entry_id: None}
        blob = self._blob()
        return "PUT", f"/api/entries/{entry_id}", {"encrypted_data": blob}, {entry_id: blob}


async def write_many(server: ServerProcess, count: int, *, connections: int = 4, name: str = "many") -> None:
    """Write `count` entries in batches of 100; each must be acknowledged."""
    numbers = iter(range(0, count, 100))
    blob = base64.b64encode(random.Random(count).randbytes(180)).decode()

    async def client() -> None:
        wire = await Wire.open(server.address, server.token)
        for first in numbers:
            operations = [
                {"operation": "put", "entry_id": f"{name}-{n}", "encrypted_data": blob}
                for n in range(first, min(first + 100, count))
            ]
            status, _, answer = await wire.request("POST", "/api/entries/batch", {"operations": operations})
            assert status == 200, answer
        await wire.close()

    await asyncio.gather(*(client() for _ in range(connections)))
