"""What the clients were told: every write they asked for, and what came of it as far as they know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["pending", "done", "refused", "unknown"]


@dataclass
class Write:
    """One write of one entry, by one client. Times are virtual seconds; `updated_at` is the primary's, in µs.

    `pop`: whom it was asked of. `data`: None for a delete. `outcome`: "done" was acknowledged; "unknown" may have been
    done or not.
    """

    number: int
    pop: str
    entry_id: str
    data: str | None
    began: float
    outcome: Outcome = "pending"
    ended: float = 0.0
    rev: int = 0
    updated_at: int | None = None

    def __str__(self) -> str:
        what = "delete" if self.data is None else f"put {self.data}"
        return f"w{self.number} {self.pop} {self.entry_id} {what}"


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Model:
    """Every write of a run, by entry."""

    writes: list[Write] = field(default_factory=list)
    given: dict[str, str | None] = field(default_factory=dict)
    """What was there before the run began."""

    def begin(self, pop: str, entry_id: str, data: str | None, at: float) -> Write:
        """Note that a client asks for a write."""
        write = Write(len(self.writes), pop, entry_id, data, at)
        self.writes.append(write)
        return write

    def of(self, entry_id: str) -> Iterator[Write]:
        """Return the writes of one entry that were not refused."""
        return (one for one in self.writes if one.entry_id == entry_id and one.outcome != "refused")

    def done(self) -> Iterator[Write]:
        """Return the acknowledged writes."""
        return (one for one in self.writes if one.outcome == "done")

    def newest(self, entry_id: str, pop: str) -> Write | None:
        """Return the write of an entry with the highest rev that a POP acknowledged."""
        done = (one for one in self.of(entry_id) if one.outcome == "done" and one.pop == pop)
        return max(done, key=lambda one: one.rev, default=None)

    def known_values(self, entry_id: str) -> set[str | None]:
        """Return everything that the entry may ever have been."""
        return {one.data for one in self.of(entry_id)} | {self.given.get(entry_id)}

    def check_order(self) -> None:
        """A write that began after another was acknowledged has the higher rev; no rev was given twice."""
        latest, before, pop = 0.0, 0, ""
        for one in sorted(self.done(), key=lambda one: (one.pop, one.rev)):
            if one.pop != pop:
                latest, before, pop = 0.0, 0, one.pop
            if one.rev == before:
                raise Broken(f"{one} was acknowledged as rev {one.rev}, as another was")
            if one.ended < latest:
                raise Broken(f"{one} has rev {one.rev}, but a write of a lower rev began after it was acknowledged")
            latest, before = max(latest, one.began), one.rev

    def check_final(self, rows: dict[str, tuple[int, str | None]], pop: str) -> None:
        """What a primary has at the end is what its clients were told. rows: rev and data; None: deleted."""
        for entry_id in sorted({one.entry_id for one in self.writes} | set(self.given)):
            rev, data = rows.get(entry_id, (0, None))
            newest = self.newest(entry_id, pop)
            if newest is None or rev > newest.rev:
                unsure = {one.data for one in self.of(entry_id) if one.outcome != "done"}
                if newest is None:
                    unsure.add(self.given.get(entry_id))
                if data not in unsure:
                    raise Broken(f"{pop}: {entry_id} is {data} at rev {rev}, which nobody wrote; last was {newest}")
            elif (rev, data) != (newest.rev, newest.data):
                raise Broken(f"{pop}: {entry_id} is {data} at rev {rev}; {newest} was acknowledged as rev {newest.rev}")
