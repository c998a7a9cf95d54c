"""Typed values of alert rules."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from clavitor_fleet.telemetry.store import Aggregation

Kind = Literal["metric", "event"]
Comparison = Literal["gt", "gte", "lt", "lte", "eq", "ne"]
Severity = Literal["info", "warning", "critical"]
OnNoData = Literal["keep", "resolve"]
State = Literal["ok", "pending", "firing"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
STATES: Final[tuple[State, ...]] = ("ok", "pending", "firing")
CONDITION: Final = ("kind", "subject", "aggregation", "comparison", "threshold", "window_s", "for_s")
"""What a rule says: with one of these changed it is another rule, and begins anew."""


class Rule(NamedTuple):
    """An alert rule. `subject`: the name of the metric, or the type of the agent event. `window_s`, `for_s`: seconds.
    `on_no_data`: of a rule that fires while nothing is reported. Times are µs since the epoch. `revision` grows with
    every change."""

    id: str
    name: str
    environment_id: str | None
    app_id: str | None
    kind: Kind
    subject: str
    aggregation: Aggregation
    comparison: Comparison
    threshold: float
    window_s: int
    for_s: int
    on_no_data: OnNoData
    outbound_connection_id: str | None
    severity: Severity
    enabled: bool
    created_at: int
    updated_at: int
    revision: int = 1


class Status(NamedTuple):
    """How a rule is. `since`: when this state began, None when it has always been so. `value`: what was measured last
    (in state ok: when it became so). `no_data_since`: when there was nothing to measure any more. Times in µs."""

    state: State = "ok"
    since: int | None = None
    value: float | None = None
    no_data_since: int | None = None


class Alert(NamedTuple):
    """A rule, how it is, and the names of where it looks."""

    rule: Rule
    status: Status
    environment_name: str | None = None
    app_name: str | None = None
