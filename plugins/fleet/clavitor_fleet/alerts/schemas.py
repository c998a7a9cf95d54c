"""The JSON bodies of `/api/v1/alert-rules` and `/api/v1/alerts`."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from clavitor_fleet.alerts.models import Alert, Comparison, Kind, OnNoData, Severity, State
from clavitor_fleet.schemas import Body, Id, Micros, Name, Result
from clavitor_fleet.telemetry.store import Aggregation

Subject = Annotated[str, Field(min_length=1, max_length=256)]
Threshold = Annotated[float, Field(allow_inf_nan=False)]
Window = Annotated[
    int, Field(ge=15, le=86_400, description="Seconds that are looked back, for events at least to the last look.")
]
For = Annotated[int, Field(ge=0, le=86_400, alias="for", description="Seconds that the condition holds before.")]
Metric = Annotated[Subject | None, Field(description="The name of a metric. Give either this or `event`.")]
Event = Annotated[Subject | None, Field(description="The type of an agent event, which is counted.")]
OnNoDataMember = Annotated[
    OnNoData,
    Field(
        description="What becomes of a rule that fires when its metric is not reported any more. keep: it goes on "
        "firing until data say otherwise, the rule is changed, or a day has passed. resolve: it is resolved after "
        "`window` and `for` together. Both say `no_data` as the reason. A count is never without data: it is 0."
    ),
]
_TARGET = "Where each change to firing and to resolved is sent"


_SUBJECTS = [
    {
        "properties": {one: {"type": "string"}, other: {"type": "null"}},
        "required": [one],
    }
    for one, other in (("metric", "event"), ("event", "metric"))
]
"""Exactly one of both, as JSON Schema; `service` checks it."""


class CreateRule(Body):
    model_config = ConfigDict(json_schema_extra={"oneOf": _SUBJECTS})  # type: ignore[dict-item]

    name: Name
    environment_id: Annotated[Id | None, Field(description="Only what comes from this environment.")] = None
    app_id: Annotated[Id | None, Field(description="Only what comes from this app.")] = None
    metric: Metric = None
    event: Event = None
    aggregation: Annotated[Aggregation | None, Field(description="avg for a metric; an event is counted.")] = None
    comparison: Comparison
    threshold: Threshold
    window: Window = 300
    for_: For = 0
    on_no_data: OnNoDataMember = "keep"
    outbound_connection_id: Annotated[Id | None, Field(description=f"{_TARGET}.")] = None
    severity: Severity = "warning"
    enabled: bool = True


class UpdateRule(Body):
    """What is null or not given stays."""

    name: Name | None = None
    metric: Metric = None
    event: Event = None
    aggregation: Aggregation | None = None
    comparison: Comparison | None = None
    threshold: Threshold | None = None
    window: Window | None = None
    for_: Annotated[int | None, Field(ge=0, le=86_400, alias="for")] = None
    on_no_data: OnNoDataMember | None = None
    outbound_connection_id: Annotated[
        str | None, Field(pattern=r"^[A-Za-z0-9._-]{0,128}$", description=f"{_TARGET}; empty: nowhere any more.")
    ] = None
    severity: Severity | None = None
    enabled: bool | None = None


class RuleOut(Result):
    model_config = ConfigDict(serialize_by_alias=True)

    id: str
    name: Name
    environment_id: str | None
    app_id: str | None
    metric: str | None
    event: str | None
    aggregation: Aggregation
    comparison: Comparison
    threshold: float
    window: int
    for_: Annotated[int, Field(alias="for")]
    on_no_data: OnNoData
    outbound_connection_id: str | None
    severity: Severity
    enabled: bool
    state: State
    since: Annotated[int | None, Field(description="When this state began, µs since the epoch.")]
    value: Annotated[float | None, Field(description="What was measured last while pending or firing.")]
    created_at: Micros
    updated_at: Micros


class RulePage(Result):
    alert_rules: list[RuleOut]
    next_cursor: str | None


class AlertOut(Result):
    rule_id: str
    name: Name
    severity: Severity
    environment_id: str | None
    app_id: str | None
    kind: Kind
    metric: str | None
    event: str | None
    state: State
    since: Micros
    value: float | None
    threshold: float


class AlertPage(Result):
    alerts: list[AlertOut]
    next_cursor: str | None


def rule_out(alert: Alert) -> RuleOut:
    """Return what clients see of a rule."""
    rule, status = alert.rule, alert.status
    said = rule._asdict()
    shown = {name: said[name] for name in RuleOut.model_fields if name in said}
    about = {rule.kind: rule.subject, "window": rule.window_s, "for": rule.for_s}
    found = {"state": status.state, "since": status.since, "value": status.value}
    return RuleOut.model_validate({"metric": None, "event": None, **shown, **about, **found})


def alert_out(alert: Alert) -> AlertOut:
    """Return what clients see of a rule that is pending or fires."""
    rule = alert.rule
    about = {"metric": None, "event": None, rule.kind: rule.subject, "rule_id": rule.id}
    said = {**rule._asdict(), **alert.status._asdict(), **about}
    return AlertOut.model_validate({name: said[name] for name in AlertOut.model_fields})
