"""How long to wait before something is tried again."""

from __future__ import annotations

import random
from heapq import heappop, heappush

from clavitor_commercial_replication.models import Task
from clavitor_host.api import Clock

FIRST, LONGEST = 0.5, 60.0
"""Seconds."""

MAX_RESTING = 1000
"""Entries that rest at once, at most."""


def pause(attempts: int) -> float:
    """Return the seconds to wait after so many failed attempts: doubled each time, spread so that not all come at once,
    from `FIRST` to `LONGEST`."""
    longest = min(LONGEST, FIRST * 2.0 ** min(attempts, 30))
    return random.uniform(max(FIRST, longest / 2), longest)  # noqa: S311 - not a secret


class Backoff:
    """Growing pauses until something works."""

    longest = LONGEST

    def __init__(self) -> None:
        self._attempts = 0

    def next(self) -> float:
        """Return the seconds to wait after one more failure."""
        self._attempts += 1
        return pause(self._attempts)

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._attempts = 0


class Resting:
    """Entries that the backup could not take just now, while others go on. `ids`: those that still rest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, str]] = []
        self.ids: set[str] = set()

    @property
    def has_room(self) -> bool:
        """Whether another may rest."""
        return len(self.ids) < MAX_RESTING

    @property
    def due(self) -> float | None:
        """When the first one may be sent again, by the monotonic clock; None when none rests."""
        return self._heap[0][0] if self._heap else None

    def add(self, task: Task) -> None:
        """Have an entry rest, the longer the more often it failed."""
        due = self._clock.monotonic() + pause(task.retry_count)
        heappush(self._heap, (due, task.rev, task.entry_id))
        self.ids.add(task.entry_id)

    def wake(self) -> int | None:
        """Let go of those whose rest is over; return their lowest rev, None when there are none."""
        now = self._clock.monotonic()
        lowest: int | None = None
        while self._heap and self._heap[0][0] <= now:
            _, rev, entry_id = heappop(self._heap)
            self.ids.discard(entry_id)
            lowest = rev if lowest is None else min(lowest, rev)
        return lowest

    def clear(self) -> None:
        """Let go of all."""
        self._heap.clear()
        self.ids.clear()
