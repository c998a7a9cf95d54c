"""A telemetry store that measures what a test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clavitor_fleet.telemetry.store import BatchKey, Found, Measurement, Origin, Retention, Stream, Wanted


class SaidStore:
    """`values`: what is measured, by the name of the metric or event; None: nothing. `asked`: every question, a list a
    call. `broken`: raised in place of an answer."""

    name = "said"

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.asked: list[Sequence[Measurement]] = []
        self.broken: Exception | None = None

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def insert(
        self, stream: Stream, origin: Origin, rows: Sequence[Mapping[str, Any]], batch: BatchKey | None = None
    ) -> bool:
        return False

    async def find(self, wanted: Wanted) -> Found:
        return Found([], None)

    async def measure(self, asked: Sequence[Measurement]) -> Sequence[float | None]:
        self.asked.append(asked)
        if self.broken is not None:
            raise self.broken
        return [self.values.get(one.name) for one in asked]

    async def apply_retention(self, retention: Retention) -> None: ...

    async def expire(self) -> bool:
        return False
