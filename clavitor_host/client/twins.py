"""Notices that another process registers as the same agent: each takes the other's token away, again and again."""

from __future__ import annotations

import time
from collections import deque

from clavitor_host.client.lines import PAUSE, log

TIMES = 3
"""Tokens that end within as many heartbeat intervals before it is a twin that ends them."""


class Twins:
    """For one agent."""

    def __init__(self) -> None:
        self._ended: deque[float] = deque(maxlen=TIMES)
        self._last = ""
        self._said = float("-inf")

    def token_ended(self, token: str, instance_id: str, interval: float) -> float:
        """Note that a token which this process was given has ended; return the seconds to wait before it asks for
        another: with a twin an interval, so that they do not keep the server busy. interval: between heartbeats."""
        if token == self._last:
            return 0.0
        self._last = token
        now = time.monotonic()
        self._ended.append(now)
        if len(self._ended) < TIMES or now - self._ended[0] > TIMES * interval:
            return 0.0
        if now - self._said >= PAUSE:
            self._said = now
            log.warning(
                "Another process uses this instance_id: %s. Each takes the other's token away; give each its own.",
                instance_id,
            )
        return interval
