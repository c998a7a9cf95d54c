"""Alert rules: the rules about them, each change in one transaction with its audit row.

A rule that is changed in what it says, disabled or deleted while it fires is resolved by that, and told so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from clavitor_fleet.alerts.models import CONDITION, SEVERITIES, Alert, Kind, Rule, State, Status
from clavitor_fleet.alerts.news import Turn, described, tell
from clavitor_fleet.alerts.reading import alert_of, all_alerts
from clavitor_fleet.alerts.tables import alert_rules, alert_states
from clavitor_fleet.apps.service import require_app
from clavitor_fleet.connections.service import require_connection
from clavitor_fleet.environments.service import require_environment
from clavitor_fleet.errors import invalid_value, not_found, taken, unknown_reference
from clavitor_fleet.lists import Page, fetch_page
from clavitor_fleet.records import entry_of
from clavitor_host.api import clean_name, invalid_field, name_key, new_id

if TYPE_CHECKING:
    from clavitor_fleet.alerts.conditions import Reason
    from clavitor_host.api import AuditEntry, Host, Identity, Transaction

_COUNT = sa.select(sa.func.count()).select_from(alert_rules)
_PENDING: tuple[State, ...] = ("pending", "firing")


async def create_rule(host: Host, values: Mapping[str, Any], *, requested_by: Identity) -> Alert:
    """Add a rule. values: members of `Rule` by name, but for those that the server gives; `metric` or `event` in place
    of `kind` and `subject`.

    Raises a 400 for a bad name and unless exactly one of metric and event is given, 409 for a name that is taken in
    the environment, 422 for what it names and is not there, and 403 for the cap.
    """
    said = {**values, "name": clean_name(values["name"])}
    metric, event = said.pop("metric"), said.pop("event")
    if (metric is None) == (event is None):
        raise invalid_field("metric", "exactly one of metric and event")
    said |= _condition(metric, event, said.pop("aggregation"))
    async with host.db.transaction() as tx:
        await host.assert_within_cap(tx, "max_alert_rules", 1, requested_by.actor)
        environment_name, app_name = await _place(tx, said)
        await _assert_connection(tx, said["outbound_connection_id"], requested_by)
        await _assert_name_free(tx, said["environment_id"] or "", said["name"])
        now = host.clock.now_us()
        rule = Rule(id=new_id(host), **said, created_at=now, updated_at=now)
        row = {**rule._asdict(), "name_key": name_key(rule.name), "place": rule.environment_id or ""}
        await tx.execute(sa.insert(alert_rules).values(row))
        payload = {"alert_rule_id": rule.id, **_told(rule)}
        title = f"created alert rule {rule.name}"
        await host.audit.record(tx, entry_of(requested_by, "create_alert_rule", title=title, payload=payload))
        return Alert(rule, Status(), environment_name, app_name)


async def list_rules(
    host: Host,
    page: Page,
    *,
    environment_id: str | None = None,
    app_id: str | None = None,
    states: Sequence[State] = (),
) -> tuple[Sequence[Alert], str | None]:
    """Return a page of rules in the order they were made, and the next cursor. states: only rules in one of these."""
    query = all_alerts()
    if environment_id is not None:
        query = query.where(alert_rules.c.environment_id == environment_id)
    if app_id is not None:
        query = query.where(alert_rules.c.app_id == app_id)
    if states:
        query = query.where(alert_states.c.state.in_(states))
    return await fetch_page(host, query, alert_rules.c.id, page, alert_of)


async def list_alerts(
    host: Host, page: Page, *, environment_id: str | None, state: State | None
) -> tuple[Sequence[Alert], str | None]:
    """Return a page of the rules that are pending or fire, and the next cursor."""
    states = _PENDING if state is None else (state,)
    return await list_rules(host, page, environment_id=environment_id, states=states)


async def get_rule(host: Host, rule_id: str) -> Alert:
    """Return a rule. Raises a 404."""
    row = await host.db.fetch_one(all_alerts().where(alert_rules.c.id == rule_id))
    if row is None:
        raise not_found("alert_rule")
    return alert_of(row)


async def update_rule(host: Host, rule_id: str, changes: Mapping[str, Any], *, requested_by: Identity) -> Alert:
    """Change a rule: the members of `changes`, as in `create_rule`; not where it looks.

    Raises a 404, a 400 for a bad name, 409 for one that is taken, 422 for a connection that is not there.
    """
    said = dict(changes)
    if "name" in said:
        said["name"] = clean_name(said["name"])
    metric, event = said.pop("metric", None), said.pop("event", None)
    if metric is not None and event is not None:
        raise invalid_field("metric", "at most one of metric and event")
    async with host.db.transaction() as tx:
        before = await _locked(tx, rule_id)
        said |= _condition(metric, event, said.pop("aggregation", None), before.rule)
        new = {key: value for key, value in said.items() if value != getattr(before.rule, key)}
        if not new:
            return before
        if "outbound_connection_id" in new:
            await _assert_connection(tx, new["outbound_connection_id"], requested_by)
        keyed = {}
        if "name" in new:
            keyed["name_key"] = name_key(new["name"])
            if keyed["name_key"] != name_key(before.rule.name):
                await _assert_name_free(tx, before.rule.environment_id or "", new["name"])
        after = before.rule._replace(**new, updated_at=host.clock.now_us(), revision=before.rule.revision + 1)
        new |= {"updated_at": after.updated_at, "revision": after.revision}
        await tx.execute(sa.update(alert_rules).where(alert_rules.c.id == rule_id).values(new | keyed))
        status = before.status
        resolved: Sequence[AuditEntry] = ()
        if not after.enabled or any(key in new for key in CONDITION):
            reason: Reason = "changed" if after.enabled else "disabled"
            target = before.rule._replace(outbound_connection_id=after.outbound_connection_id)
            resolved = await _reset(host, tx, before._replace(rule=target), reason, requested_by)
            status = Status()
        payload = {"alert_rule_id": rule_id, **_differences(before.rule, after)}
        title = f"changed alert rule {before.rule.name}"
        row = entry_of(requested_by, "update_alert_rule", title=title, payload=payload)
        await host.audit.record(tx, row, *resolved)
        return before._replace(rule=after, status=status)


async def delete_rule(host: Host, rule_id: str, *, requested_by: Identity) -> None:
    """Remove a rule. Raises a 404."""
    async with host.db.transaction() as tx:
        alert = await _locked(tx, rule_id)
        resolved = await _reset(host, tx, alert, "deleted", requested_by)
        await tx.execute(sa.delete(alert_rules).where(alert_rules.c.id == rule_id))
        title = f"deleted alert rule {alert.rule.name}"
        row = entry_of(requested_by, "delete_alert_rule", title=title, payload={"alert_rule_id": rule_id})
        await host.audit.record(tx, row, *resolved)


async def count_alert_rules(tx: Transaction) -> int:
    """Return how many alert rules there are: what `max_alert_rules` counts."""
    return int(await tx.fetch_val(_COUNT))


async def count_firing(host: Host) -> dict[tuple[str, ...], float]:
    """Return how many rules fire, by severity."""
    query = sa.select(alert_rules.c.severity, sa.func.count().label("firing"))
    query = query.join_from(alert_states, alert_rules, alert_rules.c.id == alert_states.c.rule_id)
    rows = await host.db.fetch_all(query.where(alert_states.c.state == "firing").group_by(alert_rules.c.severity))
    found = {row["severity"]: float(row["firing"]) for row in rows}
    return {(severity,): found.get(severity, 0.0) for severity in SEVERITIES}


async def _place(tx: Transaction, said: dict[str, Any]) -> tuple[str | None, str | None]:
    """Check where a rule looks, and name it: the environment and the app, whose environment is also the rule's."""
    app_name = None
    if said["app_id"] is not None:
        app = await require_app(tx, said["app_id"])
        if said["environment_id"] not in (None, app.environment_id):
            raise invalid_value("app_id", "an app in this environment")
        said["environment_id"], app_name = app.environment_id, app.name
    if said["environment_id"] is None:
        return None, app_name
    return (await require_environment(tx, said["environment_id"])).name, app_name


async def _reset(host: Host, tx: Transaction, alert: Alert, reason: Reason, by: Identity) -> list[AuditEntry]:
    """Have a rule begin anew; return the audit row of its being resolved, when it fired."""
    await tx.execute(sa.delete(alert_states).where(alert_states.c.rule_id == alert.rule.id))
    if alert.status.state != "firing":
        return []
    after = Status("ok", host.clock.now_us(), alert.status.value)
    return await tell(host, tx, [Turn(alert, after, "resolved", reason)], by)


async def _locked(tx: Transaction, rule_id: str) -> Alert:
    """Return a rule whose row this transaction then holds. Raises a 404."""
    locked = sa.select(alert_rules.c.id).where(alert_rules.c.id == rule_id).with_for_update()
    row = await tx.fetch_one(locked) and await tx.fetch_one(all_alerts().where(alert_rules.c.id == rule_id))
    if row is None:
        raise not_found("alert_rule")
    return alert_of(row)


async def _assert_connection(tx: Transaction, connection_id: str | None, by: Identity) -> None:
    """Raise a 422 for a connection that is not there, or that the caller does not reach."""
    if connection_id is None:
        return
    if by.environment_id is not None:
        raise unknown_reference("outbound_connection_id", "outbound_connection")
    await require_connection(tx, connection_id)


async def _assert_name_free(tx: Transaction, place: str, name: str) -> None:
    same = sa.select(alert_rules.c.id).where(alert_rules.c.place == place, alert_rules.c.name_key == name_key(name))
    if await tx.fetch_one(same) is not None:
        raise taken("alert_rule")


def _condition(
    metric: str | None, event: str | None, aggregation: str | None, before: Rule | None = None
) -> dict[str, Any]:
    """Return kind, subject and aggregation, of a new rule or of one that was `before`."""
    kind: Kind = "metric" if metric is not None else "event" if event is not None else cast("Rule", before).kind
    subject = metric or event or cast("Rule", before).subject
    if not subject.isprintable() or subject != subject.strip():
        raise invalid_field(kind, "printable characters with no space at either end")
    if aggregation is None:
        same = before is not None and before.kind == kind
        aggregation = cast("Rule", before).aggregation if same else "count" if kind == "event" else "avg"
    if kind == "event" and aggregation != "count":
        raise invalid_value("aggregation", "count, for events")
    return {"kind": kind, "subject": subject, "aggregation": aggregation}


def _told(rule: Rule) -> dict[str, Any]:
    """Return what the audit row of a new rule says."""
    places = {"environment_id": rule.environment_id, "app_id": rule.app_id}
    about = {key: value for key, value in described(rule).items() if key != "id"}
    return {**about, **places, "outbound_connection_id": rule.outbound_connection_id, "enabled": rule.enabled}


def _differences(before: Rule, after: Rule) -> dict[str, Any]:
    """Return what the audit row of a change says."""
    old, new = _told(before), _told(after)
    changed = {key: value for key, value in new.items() if value != old.get(key)}
    return {**changed, "was": {key: value for key, value in old.items() if value != new.get(key)}}
