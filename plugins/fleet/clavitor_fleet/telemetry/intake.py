"""Batches on their way from a request to the store."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING

from clavitor_fleet.telemetry.batch import checked_rows
from clavitor_fleet.telemetry.schemas import Accepted
from clavitor_fleet.telemetry.store import BatchKey

if TYPE_CHECKING:
    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_fleet.telemetry.store import Origin, Stream, TelemetryStore
    from clavitor_host.api import Host, Request


class Intake:
    """One per app. Checking a batch takes the event loop some milliseconds: one batch each time round, so that whatever
    else the server does comes in between, however many agents report at once."""

    def __init__(self, host: Host, store: TelemetryStore, metrics: FleetMetrics) -> None:
        self._host = host
        self._store = store
        self._taken = metrics.telemetry_rows
        self._turn = asyncio.Lock()

    async def take(self, request: Request, stream: Stream, origin: Origin, name: str | None) -> Accepted:
        """Keep the rows in the body of a request. name: of the batch. Raises what `checked_rows` and the store do."""
        body = await request.body()  # however slowly it comes, nobody waits for it
        async with self._turn:
            rows = checked_rows(stream, await request.json_rows(), self._host.clock.now_us())
            await asyncio.sleep(0)
        batch = None if name is None else BatchKey(name, blake2b(body, digest_size=16).hexdigest())
        replayed = await self._store.insert(stream, origin, rows, batch)
        if not replayed:
            self._taken.labels(stream).inc(len(rows))
        return Accepted(accepted=len(rows), replayed=replayed)
