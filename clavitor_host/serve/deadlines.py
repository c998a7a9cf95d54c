"""The one timer of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

NEVER = float("inf")


class Deadlines:
    """Two absolute deadlines over one timer: the phase's, and that of a client that has to read.

    A deadline that moves away leaves the timer where it is; that is seen when it fires. So a busy keep-alive
    connection sets a timer once per `idle_timeout`, not per request.
    """

    __slots__ = ("_at", "_expired", "_loop", "_phase", "_send", "_stalled", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None], stalled: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._expired = expired
        self._stalled = stalled
        self._phase = NEVER
        self._send = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._at = NEVER

    def phase(self, seconds: float) -> None:
        """Call `expired` in `seconds` from now; this replaces the deadline before."""
        self._phase = self._loop.time() + seconds
        self._arm()

    def no_phase(self) -> None:
        """The phase may last for ever."""
        self._phase = NEVER

    def send(self, seconds: float) -> None:
        """Call `stalled` in `seconds` from now unless `sent` is called before."""
        self._send = self._loop.time() + seconds
        self._arm()

    def sent(self) -> None:
        """The client has read."""
        self._send = NEVER

    def stop(self) -> None:
        """Call nothing any more."""
        self._phase = self._send = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        at = min(self._phase, self._send)
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time() + 0.001  # the loop's clock ticks in milliseconds
        if self._send <= now:
            self._send = NEVER
            self._stalled()
        elif self._phase <= now:
            self._phase = NEVER
            self._expired()
        if self._timer is None and min(self._phase, self._send) < NEVER:
            self._arm()
