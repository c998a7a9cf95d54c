"""The telemetry store in ClickHouse: for more than the disk of one machine holds.

What was answered is on ClickHouse's disk. While ClickHouse is away everything here raises StorageUnavailable (503 with
Retry-After), nothing waits in memory for it, and the vault serves as ever.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from clavitor_fleet.telemetry import clickhouse_reading as reading
from clavitor_fleet.telemetry import clickhouse_writing as writing
from clavitor_fleet.telemetry.clickhouse_batches import Batch, Batches, Outcome
from clavitor_fleet.telemetry.clickhouse_calls import Calls
from clavitor_fleet.telemetry.clickhouse_connection import Client, Connection
from clavitor_fleet.telemetry.clickhouse_retention import applied, apply
from clavitor_fleet.telemetry.clickhouse_target import parse_target
from clavitor_fleet.telemetry.clickhouse_ttl import days_of
from clavitor_fleet.telemetry.store import STREAMS, key_reused

if TYPE_CHECKING:
    from clavitor_fleet.telemetry.clickhouse_ttl import Days
    from clavitor_fleet.telemetry.store import BatchKey, Found, Measurement, Origin, Retention, Stream, Wanted
    from clavitor_host.api import Host

_T = TypeVar("_T")
_STOP_SECONDS: Final = 4.0
READ_DAYS_SECONDS: Final = 15.0
"""For so long a process goes by the retention that it has read from the tables."""


class ClickHouseStore:
    """A `TelemetryStore`. Reads, inserts and changes of retention have threads of their own: none waits for another."""

    name = "clickhouse"

    def __init__(self, host: Host, url: str) -> None:
        self._clock = host.clock
        self._connection = Connection(parse_target(url), host.clock, self._prepare)
        self._inserts = Calls("telemetry insert", threads=3, waiting=len(STREAMS))
        self._reads = Calls("telemetry read", threads=3, waiting=64)
        self._changes = Calls("telemetry change", threads=1, waiting=4)
        self._batches = {stream: Batches(functools.partial(self._send, stream)) for stream in STREAMS}
        self._days: dict[Stream, Days] = {}
        """What is known to hold, by stream: what reads go by."""
        self._read_at = -math.inf

    async def start(self) -> None:
        """Check what can be checked without ClickHouse, which may be away. Raises StartError."""
        self._connection.load_library()

    async def stop(self) -> None:
        """Give what is under way a few seconds, and let go."""
        await asyncio.gather(*(batches.stop(_STOP_SECONDS) for batches in self._batches.values()))
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS / 2):
                await self._changes.run(self._connection.close)
        for calls in (self._inserts, self._reads, self._changes):
            calls.stop()

    async def insert(
        self, stream: Stream, origin: Origin, rows: Sequence[Mapping[str, Any]], batch: BatchKey | None = None
    ) -> bool:
        if not rows:
            return False
        id = writing.batch_id(origin.agent_id, batch, self._clock.now_us())
        outcome = await self._batches[stream].add(Batch(origin, id, batch is not None, rows))
        if outcome == "reused":
            raise key_reused()
        return outcome == "replayed"

    async def find(self, wanted: Wanted) -> Found:
        def work(client: Client) -> Found:
            return reading.find(client, wanted, self._known_days(client).get(wanted.stream), self._clock.now_us())

        return await self._run(self._reads, work)

    async def measure(self, asked: Sequence[Measurement]) -> Sequence[float | None]:
        def work(client: Client) -> Sequence[float | None]:
            return reading.measure(client, asked, self._known_days(client), self._clock.now_us())

        return await self._run(self._reads, work) if asked else []

    async def apply_retention(self, retention: Retention) -> None:
        wanted = {stream: days_of(retention, stream) for stream in STREAMS}

        def work(client: Client) -> None:
            try:
                apply(client, wanted)
            finally:
                self._read_days(client)

        await self._changes.run(lambda: self._connection.change(work))

    async def expire(self) -> bool:
        """Return False: ClickHouse deletes by itself, and what it has not deleted yet is not shown."""
        return False

    async def check(self) -> str | None:
        """Return None when ClickHouse answers, or one sentence that says why not."""
        try:
            await self._run(self._reads, lambda client: client.command("SELECT 1"))
        except Exception:  # noqa: BLE001 - whatever it is, the store cannot be used
            return f"{self._connection.reason or 'The telemetry store is busy'}."
        return None

    async def _send(self, stream: Stream, batches: Sequence[Batch]) -> Sequence[Outcome]:
        def work(client: Client) -> Sequence[Outcome]:
            days = self._known_days(client).get(stream)
            return writing.insert(client, stream, batches, days, self._clock.now_us())

        return await self._run(self._inserts, work)

    async def _run(self, calls: Calls, work: Callable[[Client], _T]) -> _T:
        return await calls.run(lambda: self._connection.call(work))

    def _prepare(self, client: Client) -> None:
        """Give tables that had to be made anew the retention of those before."""
        if self._days:
            there = applied(client)
            apply(client, {stream: days for stream, days in self._days.items() if stream not in there})

    def _known_days(self, client: Client) -> Mapping[Stream, Days]:
        """Return what holds: another process may have applied it."""
        if self._clock.monotonic() - self._read_at > READ_DAYS_SECONDS:
            self._read_days(client)
        return self._days

    def _read_days(self, client: Client) -> None:
        self._days = applied(client)
        self._read_at = self._clock.monotonic()
