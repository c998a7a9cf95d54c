"""Looks at all rules: one query for the rules, one call of the store, and a transaction only for what has changed.

Nothing here waits for a receiver: what is to be told goes into the outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.alerts.conditions import look, transition
from clavitor_fleet.alerts.last_look import last_look, note_look, since
from clavitor_fleet.alerts.models import Alert, Status
from clavitor_fleet.alerts.news import Turn, tell
from clavitor_fleet.alerts.reading import alert_of, all_alerts
from clavitor_fleet.alerts.tables import alert_rules, alert_states
from clavitor_fleet.records import SYSTEM
from clavitor_fleet.telemetry.store import Measurement
from clavitor_host.api import StorageUnavailable, log

if TYPE_CHECKING:
    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_fleet.telemetry.store import TelemetryStore
    from clavitor_host.api import Host, Transaction

BATCH: Final = 200
"""Rules that change in one transaction at most."""


class Look(NamedTuple):
    """A rule as it was, and as it is now."""

    alert: Alert
    after: Status

    @property
    def what(self) -> Literal["pending", "firing", "resolved"] | None:
        """What has happened."""
        return transition(self.alert.status, self.after)


class Evaluator:
    """Evaluates the rules of one database against a store. `evaluate` runs in one process of a deployment; run by two
    at once, each change is still made and told once."""

    def __init__(self, host: Host, store: TelemetryStore, metrics: FleetMetrics) -> None:
        self._host = host
        self._store = store
        self._metrics = metrics
        self._failing = False

    async def evaluate(self) -> None:
        """Look at every rule that is enabled, once. While that cannot be done, every rule stays as it is."""
        try:
            await self._evaluate()
        except StorageUnavailable as error:
            if not self._failing:
                log.warning("Alert rules cannot be evaluated for now", reason=error.detail)
            self._failing = True
        else:
            self._failing = False

    async def _evaluate(self) -> None:
        query = all_alerts().where(alert_rules.c.enabled).order_by(alert_rules.c.id)
        alerts = [alert_of(row) for row in await self._host.db.fetch_all(query)]
        if not alerts:
            return
        now = self._host.clock.now_us()
        counts_events = any(alert.rule.kind == "event" for alert in alerts)
        last = await last_look(self._host) if counts_events else None
        values = await self._store.measure([_measurement(alert, now, last) for alert in alerts])
        looks = [
            Look(alert, look(alert.rule, alert.status, value, now)) for alert, value in zip(alerts, values, strict=True)
        ]
        changed = [one for one in looks if one.after != one.alert.status]
        for first in range(0, len(changed), BATCH):
            await self._keep(changed[first : first + BATCH])
        if counts_events:
            await note_look(self._host, now)

    async def _keep(self, looks: Sequence[Look]) -> None:
        async with self._host.db.transaction() as tx:
            kept = await self._unchanged(tx, looks)
            rows = [{"rule_id": one.alert.rule.id, **one.after._asdict()} for one in kept]
            await tx.insert_many(alert_states, rows, upsert_on=("rule_id",), update=Status._fields)
            turns = [
                Turn(one.alert, one.after, what, "no_data" if _silent(one) else "condition")
                for one in kept
                if (what := one.what) == "firing" or what == "resolved"
            ]
            pending = sum(one.what == "pending" for one in kept)
            tx.after_commit(lambda: self._metrics.alert_transitions.labels("pending").inc(pending))
            if turns:
                await self._host.audit.record(tx, *await tell(self._host, tx, turns, SYSTEM))

    async def _unchanged(self, tx: Transaction, looks: Sequence[Look]) -> list[Look]:
        """Lock the rules; return those that nobody has changed or looked at since they were read."""
        ids = [one.alert.rule.id for one in looks]
        locked = sa.select(alert_rules.c.id, alert_rules.c.revision).where(alert_rules.c.id.in_(ids))
        rows = await tx.fetch_all(locked.order_by(alert_rules.c.id).with_for_update())
        revisions = {row["id"]: row["revision"] for row in rows}
        known = await tx.fetch_by_keys(alert_states, ("rule_id", *Status._fields), "rule_id", ids)
        states = {row["rule_id"]: Status(**{name: row[name] for name in Status._fields}) for row in known}
        return [
            one
            for one in looks
            if revisions.get(one.alert.rule.id) == one.alert.rule.revision
            and states.get(one.alert.rule.id, Status()) == one.alert.status
        ]


def _measurement(alert: Alert, now: int, last: int | None) -> Measurement:
    rule = alert.rule
    place = (rule.environment_id, rule.app_id)
    return Measurement(rule.kind, rule.subject, *place, since(rule, now, last), now, rule.aggregation)


def _silent(one: Look) -> bool:
    """Tell whether a rule is resolved because there is nothing to measure."""
    return one.after.state == "ok" and one.after.value is None
