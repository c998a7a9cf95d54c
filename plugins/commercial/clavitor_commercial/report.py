"""The body of `/v1/metrics`. The README shows it member by member; `clavitor telemetry preview` shows it filled in.

It is made of the host's status report, member by member and type by type: what is not named here is not sent, so no
entry, name, token or address can get in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from clavitor_commercial.items import Item, encoded

if TYPE_CHECKING:
    from clavitor_commercial.config import CommercialConfig
    from clavitor_host.api import Host

REPLICATION = "commercial_replication"
LICENSING = "licensing"
"""The plugins whose status reports are read, when this build has them."""

_WORD = re.compile(r"[A-Za-z_]{1,32}")
_HASH = re.compile(r"[0-9a-f]{64}")


async def make_report(host: Host, config: CommercialConfig) -> Item:
    """Return a report of now. Raises `StorageUnavailable`."""
    body = report_body(await host.status(), config, item_id=uuid4().hex, at=host.clock.now_us())
    if body["uptime_seconds"] is None and not host.offline:
        body["uptime_seconds"] = 0  # it starts this very moment
    return Item("report", body["id"], body["at"], encoded(body))


def report_body(status: Mapping[str, Any], config: CommercialConfig, *, item_id: str, at: int) -> dict[str, Any]:
    """Return the members of a report. status: what `host.status()` gives. at: µs since the epoch."""
    plugins = status.get("plugins", {})
    return {
        "id": item_id,
        "at": at,
        "pop": config.pop,
        "version": status["version"],
        "edition": status["edition"],
        "interval_seconds": config.telemetry_interval,
        "uptime_seconds": _number(status["uptime_seconds"]),
        "entries": _number(status["entries"]),
        "replication": _replication(plugins.get(REPLICATION)),
        "license": _license(plugins.get(LICENSING)),
        "audit": _audit(status["audit"]),
    }


def _replication(found: Any) -> dict[str, Any] | None:
    if not isinstance(found, Mapping):
        return None
    return {
        "role": _word(found.get("role")),
        "lag_seconds": _number(found.get("lag_seconds")),
        "depth": _number(found.get("depth")),
    }


def _license(found: Any) -> dict[str, Any] | None:
    return {"state": _word(found.get("state"))} if isinstance(found, Mapping) else None


def _audit(found: Any) -> dict[str, Any] | None:
    if not isinstance(found, Mapping):
        return None
    head = found.get("head_hash")
    return {
        "head_id": _number(found.get("head_id")),
        "head_hash": head if isinstance(head, str) and _HASH.fullmatch(head) else None,
    }


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 2**63 else None  # neither NaN nor an infinity


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None
