"""How many callers may be held at a time, and what that costs the server: never what it needs itself."""

from __future__ import annotations

import resource
from contextlib import suppress
from time import monotonic

from clavitor_commercial_tarpit.metrics import TarpitMetrics

SEATS = 1000
"""Callers held at a time by one POP, over all its workers (commercial.md section 2)."""

SPARE = 256
"""Descriptors a worker has use for beside its connections: database, listeners, log."""


class Seat:
    """One caller's. It is taken before the answer begins, held while it drips, and released once, whatever happens.

    A seat whose answer never began (the client was faster) is released when nothing refers to it any more.
    """

    __slots__ = ("_seats", "_since", "streams")

    def __init__(self, seats: Seats, *, streams: bool) -> None:
        self._seats: Seats | None = seats
        self._since = 0.0
        self.streams = streams
        """True when it is held as one of the server's own connections or HTTP/2 streams."""

    def begin(self) -> None:
        """The answer begins."""
        self._since = monotonic()
        if self._seats is not None:
            self._seats.metrics.served.inc()

    def become_stream(self) -> bool:
        """Hold it on the server's own connection after all. False: there are too many of those."""
        if self.streams or self._seats is None:
            return True
        if self._seats.streaming >= self._seats.most_streams:
            return False
        self._seats.streaming += 1
        self.streams = True
        return True

    def release(self) -> None:
        """Let the next one have it."""
        seats, self._seats = self._seats, None
        if seats is not None:
            seats.released(self.streams, monotonic() - self._since if self._since else 0.0)

    def __del__(self) -> None:
        self.release()


class Seats:
    """The seats of one worker: `limit` in all, at most `most_streams` of them on the server's own connections."""

    def __init__(self, limit: int, most_streams: int, metrics: TarpitMetrics) -> None:
        self.limit = limit
        self.most_streams = most_streams
        self.metrics = metrics
        self.taken = 0
        self.streaming = 0

    def take(self, *, streams: bool) -> Seat | None:
        """Return a free seat, None when there is none."""
        if self.taken >= self.limit or (streams and self.streaming >= self.most_streams):
            self.metrics.refused.inc()
            return None
        self.taken += 1
        self.streaming += streams
        self.metrics.held.inc()
        return Seat(self, streams=streams)

    def released(self, streams: bool, seconds: float) -> None:
        """Take a seat back that was held for `seconds`."""
        self.taken -= 1
        self.streaming -= streams
        self.metrics.held.dec()
        if seconds:
            self.metrics.wasted.inc(seconds)


def affordable(wanted: int, connections: int) -> int:
    """Return how many of `wanted` seats the limit of open files has room for beside the server's `connections`.

    The soft limit is raised as far as it takes and the hard limit allows.
    """
    own = connections + connections // 10 + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < own + wanted:
        raised = own + wanted if hard == resource.RLIM_INFINITY else min(own + wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(raised, soft), hard))
            soft = max(raised, soft)
    return wanted if soft == resource.RLIM_INFINITY else max(0, min(wanted, soft - own))
