"""Log lines that may come often: the first at once, then at most one an interval, with how many it stands for."""

from __future__ import annotations

from collections.abc import Iterator


class Sampler:
    """By key. interval: in seconds; times are monotonic seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def admit(self, key: str, now: float) -> int | None:
        """Return how many a line written now stands for, or None when there is to be none yet."""
        waiting = self._held_back.pop(key, 0) + 1
        if now - self._last.get(key, float("-inf")) < self._interval:
            self._held_back[key] = waiting
            return None
        self._last[key] = now
        return waiting

    def due(self, now: float) -> Iterator[tuple[str, int]]:
        """Yield what was held back and may be said now."""
        for key in [key for key in self._held_back if now - self._last[key] >= self._interval]:
            self._last[key] = now
            yield key, self._held_back.pop(key)
