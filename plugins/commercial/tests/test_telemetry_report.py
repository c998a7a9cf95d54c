"""The report holds what it names and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clavitor_commercial.alerts import alert_item
from clavitor_commercial.config import CommercialConfig
from clavitor_commercial.report import report_body

from clavitor_host.api import Alert

CANARY = "canary-of-a-user"


def status(**plugins: Any) -> dict[str, Any]:
    return {
        "version": "1.0.0",
        "edition": "commercial",
        "database": CANARY,
        "uptime_seconds": 12,
        "entries": 3,
        "rev": 9,
        "audit": {"head_id": 4, "head_hash": "a" * 64, "actor": CANARY},
        "plugins": plugins,
        CANARY: CANARY,
    }


def test_it_takes_lag_depth_and_licence_state_of_the_plugins_that_are_there() -> None:
    found = status(
        commercial_replication={"role": "primary", "lag_seconds": 0.5, "depth": 7, "backup_url": CANARY},
        licensing={"state": "GRACE", "label": CANARY, "token": CANARY},
        somebody={"name": CANARY},
    )
    body = report_body(found, CommercialConfig(pop_name="zrh"), item_id="i", at=1)
    assert body == {
        "id": "i",
        "at": 1,
        "pop": {"name": "zrh", "region": None},
        "version": "1.0.0",
        "edition": "commercial",
        "interval_seconds": 60,
        "uptime_seconds": 12,
        "entries": 3,
        "replication": {"role": "primary", "lag_seconds": 0.5, "depth": 7},
        "license": {"state": "GRACE"},
        "audit": {"head_id": 4, "head_hash": "a" * 64},
    }
    assert CANARY not in json.dumps(body)


def test_a_member_of_the_wrong_type_is_null() -> None:
    found = status(
        commercial_replication={"role": CANARY + " x", "lag_seconds": CANARY, "depth": float("inf")},
        licensing={"state": {"name": CANARY}},
    )
    found |= {"audit": {"head_id": True, "head_hash": CANARY}, "entries": float("nan")}
    body = report_body(found, CommercialConfig(), item_id="i", at=1)
    assert body["replication"] == {"role": None, "lag_seconds": None, "depth": None}
    assert body["license"] == {"state": None}
    assert body["audit"] == {"head_id": None, "head_hash": None}
    assert body["entries"] is None
    assert CANARY not in json.dumps(body)


def test_plugins_that_report_no_object_are_null() -> None:
    body = report_body(status(commercial_replication=[1], licensing="x"), CommercialConfig(), item_id="i", at=1)
    assert (body["replication"], body["license"]) == (None, None)


def test_the_readme_shows_every_member_of_both_bodies() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    alert, report = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", readme, re.DOTALL))
    found = status(commercial_replication={}, licensing={})
    body = report_body(found, CommercialConfig(), item_id="i", at=1)
    assert _names(report) == _names(body)
    item = alert_item(Alert("t", "m", {"plugin": "notes"}, "i", 1), pop=CommercialConfig().pop, version="1")
    assert _names(alert) == _names(json.loads(item.body))


def _names(value: Any) -> Any:
    return {name: _names(member) for name, member in value.items()} if isinstance(value, dict) else None
