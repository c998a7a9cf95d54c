"""When a rule is pending, fires and is resolved. Nothing here knows of clocks, stores or databases.

ok → pending → firing → ok. The condition must hold at every look for `for` seconds before it fires; with 0 it fires
at the first look. It is resolved at the first look at which the condition does not hold.

Where nothing was reported in the window a count is 0. Anything else has no value then: that says nothing for the
condition and nothing against it. What is pending then ends when there was no value for `window` and `for` together: it
was never told. What fires goes on firing, for whoever reports may have died of what it fires about, and ends after
`PATIENCE`; with `on_no_data` resolve it ends as what is pending does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Final, Literal

from clavitor_fleet.alerts.models import Comparison, Rule, Status

Reason = Literal["condition", "no_data", "changed", "disabled", "deleted"]
"""Why a rule fires or is resolved: what was measured, that nothing was, or what was done to the rule."""

COMPARISONS: Final[Mapping[Comparison, Callable[[float, float], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
}
PATIENCE: Final = 86_400
"""Seconds without data after which what fires is resolved, so that an app that is gone does not fire for ever."""
_SECOND = 1_000_000


def look(rule: Rule, before: Status, measured: float | None, now: int) -> Status:
    """Return how a rule is, given how it was. measured: None for nothing to aggregate. now: µs."""
    if measured is None and rule.aggregation == "count":
        measured = 0.0
    if measured is None or not math.isfinite(measured):
        return _without_data(rule, before, now)
    if not COMPARISONS[rule.comparison](measured, rule.threshold):
        return before if before.state == "ok" else Status("ok", now, measured)
    if before.state == "firing":
        return before._replace(value=measured, no_data_since=None)
    since = before.since if before.state == "pending" and before.since is not None else now
    if now - since >= rule.for_s * _SECOND:
        return Status("firing", now, measured)
    return Status("pending", since, measured)


def _without_data(rule: Rule, before: Status, now: int) -> Status:
    if before.state == "ok":
        return before
    if before.no_data_since is None:
        return before._replace(no_data_since=now)
    keeps = before.state == "firing" and rule.on_no_data == "keep"
    if now - before.no_data_since >= (PATIENCE if keeps else rule.window_s + rule.for_s) * _SECOND:
        return Status("ok", now, None)
    return before


def transition(before: Status, after: Status) -> Literal["pending", "firing", "resolved"] | None:
    """Return what has happened; None for nothing that anyone need know. A pending rule that ends is nothing."""
    if before.state == after.state:
        return None
    if after.state == "ok":
        return "resolved" if before.state == "firing" else None
    return after.state
