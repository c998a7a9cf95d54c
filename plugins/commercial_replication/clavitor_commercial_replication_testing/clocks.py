"""A clock for tests that wait."""

from __future__ import annotations

import asyncio
import time


class QuickClock:
    """Time is real, but nobody sleeps longer than 20 ms. `slept`: what was asked for, in seconds; `shift`: what the
    wall clock is off by, in seconds."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.shift = 0.0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + int(self.shift * 1_000_000)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(min(seconds, 0.02))
