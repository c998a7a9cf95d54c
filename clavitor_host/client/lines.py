"""What an agent's client logs, with the logger `clavitor.client`: what somebody should know, and not every try."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("clavitor.client")

PAUSE = 60.0
"""Seconds between two lines that say the same."""


class Outage:
    """Something that is away for a while: `down` when it goes, at most once a `PAUSE`, and `up` when it is back, if
    anything was said. down, up: lines, with a place for details."""

    def __init__(self, down: str, up: str) -> None:
        self._down = down
        self._up = up
        self._said = float("-inf")
        self._told = False

    def begin(self, *details: object) -> None:
        """It is away, or still is."""
        now = time.monotonic()
        if now - self._said >= PAUSE:
            self._said = now
            self._told = True
            log.warning(self._down, *details)

    def end(self, *details: object) -> None:
        """It is there, or still is."""
        if self._told:
            self._told = False
            log.info(self._up, *details)
