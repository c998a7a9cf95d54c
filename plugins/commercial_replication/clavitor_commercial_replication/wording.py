"""How replication is told to people: facts by name, and the progress of long work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clavitor_commercial_replication.words import are, entries, lasting
from clavitor_host.api import terminal

if TYPE_CHECKING:
    from clavitor_commercial_replication.models import Role
    from clavitor_commercial_replication.promotion import Preview
    from clavitor_commercial_replication.status import Facts

Pairs = Iterator[tuple[str, str]]

ROLES: dict[Role, str] = {
    "primary": "primary: takes writes, and sends them to the backup",
    "backup": "backup: read-only, takes the primary's writes",
    "fenced": "fenced: it was the primary, and is read-only until it is re-seeded",
}


def described(facts: Facts) -> Pairs:
    """Give how replication stands, by name."""
    yield "pop", facts.pop
    yield "role", f"{ROLES[facts.role]} (since {terminal.moment(facts.role_since)})"
    yield "epoch", str(facts.epoch)
    yield "other pop", " at ".join(part for part in (facts.peer, facts.url) if part) or "not known"
    yield "last contact", _ago(facts, facts.last_success_at)
    yield "waiting", _waiting(facts)
    yield "behind", behind(facts)
    yield "equal", agreement(facts)
    if facts.quarantined:
        yield "refused", f"{entries(facts.quarantined)}, by the backup"
    if facts.mirrored_tokens:
        yield "tokens", f"{facts.mirrored_tokens:,} of the other POP {are(facts.mirrored_tokens)} good here"
    if facts.reseed_from is not None:
        yield "re-seed", f"under way, from {facts.reseed_from}"
    if facts.last_error is not None:
        yield "last error", f"{terminal.moment(facts.last_error_at)} {facts.last_error}"


def behind(facts: Facts) -> str:
    """Return how far the backup is behind, in words."""
    if facts.role == "fenced":
        return "does not apply"
    if facts.role == "backup":
        if facts.as_of is None:
            return "not known"
        return f"at most {seconds(facts.lag_seconds)}: has everything from before {terminal.moment(facts.as_of)}"
    return seconds(facts.lag_seconds) if facts.sendable_at is not None else "nothing"


def agreement(facts: Facts) -> str:
    """Return what the last comparison of the hashes found, in words."""
    if facts.role == "fenced":
        return "not known since it is fenced"
    if facts.compared_at is None:
        return "not compared yet"
    differ = f"{facts.mismatches} of 256 hashes {'differs' if facts.mismatches == 1 else 'differ'}"
    found = f"no, {differ}" if facts.mismatches else "yes, all 256 hashes"
    if facts.quarantined and not facts.mismatches:
        found = "cannot be compared while entries are refused"
    elif facts.agree is None:
        found = "not known by now"
    return f"{found} (compared {_ago(facts, facts.compared_at)})"


def previewed(preview: Preview) -> Pairs:
    """Give what a promotion would mean, by name."""
    yield "role", f"{preview.role}, to become primary"
    yield "epoch", f"{preview.epoch}, to become {preview.new_epoch}"
    if preview.role == "backup":
        yield "primary last heard", terminal.moment(preview.heard_at) or "never"
        yield "its last write then", str(preview.told_head_rev)
        yield "complete here up to", str(preview.complete_rev)
        yield "compared", _compared(preview)
    if preview.refusal is not None:
        yield "other pop now", f"answers, and refuses to say what it is: {preview.refusal}"
    else:
        yield "other pop now", f"answers, as {preview.other_role}" if preview.answers else "does not answer"


def seconds(value: float) -> str:
    """Return a short time with its unit."""
    return f"{value:.1f} seconds" if value < 60 else lasting(value)


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Give a function to report what is done and the whole to. It draws on standard error when that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _compared(preview: Preview) -> str:
    if preview.compared_at is None:
        return "never in this epoch"
    found = f"{preview.mismatches} of 256 hashes differed" if preview.mismatches else "equal"
    return f"{found}, {terminal.moment(preview.compared_at)}"


def _waiting(facts: Facts) -> str:
    if facts.role == "backup":
        if facts.complete_rev >= facts.told_head_rev:
            return "nothing"
        return f"{entries(facts.told_depth)} at the primary, as it last said"
    if not facts.depth:
        return "nothing"
    return f"{entries(facts.depth)}, the oldest for {seconds(facts.oldest_dirty_seconds)}"


def _ago(facts: Facts, at: int | None) -> str:
    if at is None:
        return "never"
    return f"{seconds(max(0, facts.at - at) / 1_000_000)} ago"
