"""An operator alert: its line in the log, and the body of `/v1/alerts`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from clavitor_commercial.items import Item, encoded
from clavitor_host.api import Alert, log

MAX_DETAILS = 32_768
"""Bytes of details that are sent; larger ones are in the log alone."""
MAX_TYPE = 200
MAX_MESSAGE = 4096
"""Characters of a type and of a message that are sent."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def write_line(alert: Alert) -> None:
    """Write the whole alert as one structured line; the host's own line has its message only."""
    log.warning(alert.message, alert=alert.type, alert_id=alert.id, at=alert.at, details=dict(alert.details))


def alert_item(alert: Alert, *, pop: Mapping[str, str | None], version: str) -> Item:
    """Return what is sent of an alert. Never raises: details that are not JSON, or too large, are left out."""
    item_id = alert.id if _ID.fullmatch(alert.id) else uuid4().hex
    body = {
        "id": item_id,
        "at": alert.at,
        "type": alert.type[:MAX_TYPE],
        "message": alert.message[:MAX_MESSAGE],
        "details": _details(alert.details),
        "pop": dict(pop),
        "version": version,
    }
    return Item("alert", item_id, alert.at, encoded(body))


def _details(details: Mapping[str, Any]) -> Any:
    try:
        text = json.dumps(dict(details), default=str, allow_nan=False)
    except Exception as error:  # noqa: BLE001 - whatever a value's own code raises
        return {"omitted": f"not JSON: {type(error).__name__}"}
    return json.loads(text) if len(text) <= MAX_DETAILS else {"omitted": f"{len(text)} bytes"}
