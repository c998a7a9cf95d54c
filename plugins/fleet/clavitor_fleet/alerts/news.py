"""Telling that a rule fires or is resolved: audit row, outbox and operator, in the transaction that makes it so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from clavitor_fleet.alerts.models import Alert, Rule, Status
from clavitor_fleet.connections.notices import Notice, tell_operator
from clavitor_fleet.connections.outbox import News, enqueue_many
from clavitor_fleet.records import entry_of

if TYPE_CHECKING:
    from clavitor_fleet.alerts.conditions import Reason
    from clavitor_host.api import AuditEntry, Host, Identity, Transaction

SYMBOLS: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "eq": "==", "ne": "!="}


class Turn(NamedTuple):
    """A rule that begins to fire, or does no more. `alert` is how it was before, `after` how it is now."""

    alert: Alert
    after: Status
    what: Literal["firing", "resolved"]
    reason: Reason


async def tell(host: Host, tx: Transaction, turns: Sequence[Turn], by: Identity) -> list[AuditEntry]:
    """Have turns told; return the audit rows, which the caller appends last of all."""
    now = host.clock.now_us()
    news = [
        News(turn.alert.rule.outbound_connection_id, f"alert.{turn.what}", body_of(turn, now))
        for turn in turns
        if turn.alert.rule.outbound_connection_id is not None
    ]
    await tell_operator(host, tx, [_notice(turn) for turn in turns])
    await enqueue_many(host, tx, news)

    def count() -> None:
        from clavitor_fleet.fleet import fleet_of

        for turn in turns:
            fleet_of(host).metrics.alert_transitions.labels(turn.what).inc()

    tx.after_commit(count)
    return [_entry(turn, by) for turn in turns]


def body_of(turn: Turn, now: int) -> dict[str, Any]:
    """Return what is sent. `since`: when it began to fire; `at`: when it changed; both µs since the epoch."""
    rule = turn.alert.rule
    return {
        "event": f"alert.{turn.what}",
        "reason": turn.reason,
        "rule": described(rule),
        "value": turn.after.value,
        "threshold": rule.threshold,
        "since": turn.after.since if turn.what == "firing" else turn.alert.status.since,
        "at": now,
        "environment": _named(rule.environment_id, turn.alert.environment_name),
        "app": _named(rule.app_id, turn.alert.app_name),
    }


def described(rule: Rule) -> dict[str, Any]:
    """Return what a rule says, under the names that it has in requests."""
    return {
        "id": rule.id,
        "name": rule.name,
        "severity": rule.severity,
        rule.kind: rule.subject,
        "aggregation": rule.aggregation,
        "comparison": rule.comparison,
        "threshold": rule.threshold,
        "window": rule.window_s,
        "for": rule.for_s,
        "on_no_data": rule.on_no_data,
    }


def _named(id: str | None, name: str | None) -> dict[str, str | None] | None:
    return None if id is None else {"id": id, "name": name}


def _notice(turn: Turn) -> Notice:
    rule, value = turn.alert.rule, turn.after.value
    condition = f"{rule.aggregation} of {rule.kind} {rule.subject} {SYMBOLS[rule.comparison]} {rule.threshold:g}"
    message = f"Alert rule {rule.name} is {turn.what}: {condition}, {_why(turn.reason, value)}."
    details = {"rule_id": rule.id, "name": rule.name, "value": value, "threshold": rule.threshold}
    return Notice(f"fleet_alert_{turn.what}", message, details)


def _why(reason: Reason, value: float | None) -> str:
    if reason == "condition":
        return "nothing measured" if value is None else f"measured {value:g}"
    return "nothing was reported" if reason == "no_data" else f"the rule was {reason}"


def _entry(turn: Turn, by: Identity) -> AuditEntry:
    rule = turn.alert.rule
    action = "fire_alert" if turn.what == "firing" else "resolve_alert"
    title = f"alert rule {rule.name} {'fires' if turn.what == 'firing' else 'is resolved'}"
    payload = {
        "alert_rule_id": rule.id,
        "severity": rule.severity,
        "value": turn.after.value,
        "threshold": rule.threshold,
        "reason": turn.reason,
    }
    return entry_of(by, action, title=title, payload=payload)
