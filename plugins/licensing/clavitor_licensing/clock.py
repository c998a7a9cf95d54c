"""What time it is for licenses: never more than a day behind the highest time that was ever seen (spec section 4).

Who turns the clock back does not get a license back that has expired. Below that a clock may be set right.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MICROSECONDS: Final = 1_000_000
TOLERANCE: Final = 86_400 * MICROSECONDS
"""µs by which the clock may go back before the time of licenses stands still."""
SEEN_INTERVAL: Final = 600 * MICROSECONDS
"""µs after which the highest time seen is written again: an idle server should not write every minute."""


class HighWater(NamedTuple):
    """The highest time that was seen, in µs, and whether the time of licenses stands still at it."""

    seen_at: int = 0
    stopped: bool = False

    def time(self, wall: int) -> int:
        """Return the time for licenses, in µs. wall: what the clock says, in µs."""
        if wall < self.seen_at and (self.stopped or self.rolled_back(wall)):
            return self.seen_at
        return wall

    def rolled_back(self, wall: int) -> bool:
        """Whether the clock went back further than it may."""
        return wall < self.seen_at - TOLERANCE

    def passed(self, wall: int) -> bool:
        """Whether the time stands still although the clock is past it."""
        return self.stopped and wall >= self.seen_at

    def is_due(self, wall: int) -> bool:
        """Whether the highest time is to be written."""
        return wall >= self.seen_at + SEEN_INTERVAL

    def floor(self, wall: int) -> int:
        """Return the latest time that is known to have come, in µs: a license was issued before it."""
        return max(wall, self.seen_at)
