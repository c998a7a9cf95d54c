"""Mutants: replication with one guard taken away each. A simulation that does not fail for them sees nothing.

And what else a run changes in the program: how many entries a request takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from clavitor_commercial_replication import queue, rules
from clavitor_commercial_replication.rules import Stamp, Verdict


def _clear_by_id_only(acknowledged_rev: int, dirty_rev: int) -> bool:
    """An acknowledgement clears the entry, whatever was written to it meanwhile."""
    return True


def _order_by_seconds(incoming: Stamp, digest: bytes | None, stored: Stamp, stored_digest: bytes) -> Verdict:
    """The later second of the wall clock wins."""
    return "apply" if incoming.at // 1_000_000 > stored.at // 1_000_000 else "exists"


def _never_stale(epoch: int, known_epoch: int) -> bool:
    """Any primary is believed."""
    return False


def _rev_alone(incoming: Stamp, digest: bytes | None, stored: Stamp, stored_digest: bytes) -> Verdict:
    """The higher rev wins, whoever's it is."""
    return _real_verdict(
        incoming._replace(epoch=0 if incoming.epoch is not None else None),
        digest,
        stored._replace(epoch=0),
        stored_digest,
    )


def _completes_beside_others(*, alone: bool, passed: int, more: bool) -> bool:
    """The last batch of the queue claims everything, though others may still be under way."""
    return not passed and not more


_real_verdict = rules.verdict

MUTANTS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "clear-by-id-only": {"clears": _clear_by_id_only},
    "wall-clock-order": {"verdict": _order_by_seconds},
    "no-tombstone": {"keeps_tombstone": lambda: False},
    "never-stale": {"is_stale": _never_stale},
    "no-epoch": {"is_stale": _never_stale, "verdict": _rev_alone},
    "complete-beside-others": {"completes": _completes_beside_others},
}
"""What each puts in place of the rules."""

WITHIN = 200
"""Seeds within which each is caught."""


@contextmanager
def batches_of(entries: int) -> Iterator[None]:
    """Have requests take so few entries that a handful of them makes several requests at a time."""
    real = queue.look
    queue.look = partial(real, limit=entries)
    try:
        yield
    finally:
        queue.look = real


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Run with a mutant's rules; None: with the real ones."""
    changes = {} if name is None else MUTANTS[name]
    real = {rule: getattr(rules, rule) for rule in changes}
    for rule, function in changes.items():
        setattr(rules, rule, function)
    try:
        yield
    finally:
        for rule, function in real.items():
            setattr(rules, rule, function)
