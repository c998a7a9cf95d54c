"""The few decisions that keep two POPs equal, each a pure function: the simulation takes one away and must fail.

Everything that compares two writes, or decides whose word counts, asks here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Verdict = Literal["apply", "exists", "conflict"]
"""What a backup does with a write: apply it; it has this or a newer one; it has another write of the same number."""


class Stamp(NamedTuple):
    """What orders two writes of one entry. `epoch` and `rev` are None in the seed's plain format; `at`: µs."""

    epoch: int | None
    rev: int | None
    at: int


def verdict(incoming: Stamp, digest: bytes | None, stored: Stamp, stored_digest: bytes) -> Verdict:
    """Compare a write with what is stored of the entry. digest: of the incoming one, None in the plain format.

    Numbers decide, never a clock: replication.md section 3. In the plain format the later second wins.
    """
    if incoming.epoch is None or incoming.rev is None:
        return "apply" if incoming.at // 1_000_000 > stored.at // 1_000_000 else "exists"
    theirs, ours = (incoming.epoch, incoming.rev), (stored.epoch or 0, stored.rev or 0)
    if theirs == ours:
        return "exists" if digest == stored_digest else "conflict"
    return "apply" if theirs > ours else "exists"


def is_stale(epoch: int, known_epoch: int) -> bool:
    """Tell whether a primary of `epoch` has been superseded, for a POP that knows `known_epoch`."""
    return epoch < known_epoch


def keeps_tombstone() -> bool:
    """Tell whether a delete leaves a tombstone: without one, a late duplicate of an older write brings it back."""
    return True


def clears(acknowledged_rev: int, dirty_rev: int) -> bool:
    """Tell whether the acknowledgement of one rev clears an entry that is dirty at another: only of the same."""
    return acknowledged_rev == dirty_rev


def completes(*, alone: bool, passed: int, more: bool) -> bool:
    """Tell whether the backup has every write once a batch is applied. alone: it has all of the other batches.
    passed: entries that were passed over. more: some are behind it.

    The lowest rev that is left behind tells nothing: an earlier write of its entry may be missing as well.
    """
    return alone and not passed and not more
