"""Time, as the host gives it to everything else, so that a simulation can replace it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Units: `now_us` microseconds since the epoch, the rest seconds."""

    def now_us(self) -> int:
        """Return the wall clock in microseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return a clock that never goes back, in seconds; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
