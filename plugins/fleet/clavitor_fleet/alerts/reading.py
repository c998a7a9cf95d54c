"""Rules with how they are and the names of where they look, by one query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from clavitor_fleet.alerts.models import Alert, Rule, Status
from clavitor_fleet.alerts.tables import alert_rules, alert_states
from clavitor_fleet.apps.tables import apps
from clavitor_fleet.environments.tables import environments

_RULE = tuple(alert_rules.c[name] for name in Rule._fields)
_STATUS = tuple(alert_states.c[name] for name in Status._fields)
_FROM = (
    alert_rules.outerjoin(alert_states, alert_states.c.rule_id == alert_rules.c.id)
    .outerjoin(environments, environments.c.id == alert_rules.c.environment_id)
    .outerjoin(apps, apps.c.id == alert_rules.c.app_id)
)


def all_alerts() -> sa.Select[Any]:
    """Return the query of every rule, to be narrowed."""
    names = (environments.c.name.label("environment_name"), apps.c.name.label("app_name"))
    return sa.select(*_RULE, *_STATUS, *names).select_from(_FROM)


def alert_of(row: Mapping[str, Any]) -> Alert:
    """Return a row of `all_alerts`."""
    rule = Rule(**{name: row[name] for name in Rule._fields})
    known = row["state"] is not None
    status = Status(**{name: row[name] for name in Status._fields}) if known else Status()
    return Alert(rule, status, row["environment_name"], row["app_name"])
