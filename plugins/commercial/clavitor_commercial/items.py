"""What is sent, as it is kept: one item, whose bytes are fixed before its first attempt."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

Kind = Literal["alert", "report"]

KINDS: tuple[Kind, ...] = ("alert", "report")
PATHS: dict[Kind, str] = {"alert": "/v1/alerts", "report": "/v1/metrics"}


class Item(NamedTuple):
    """One alert or report. `at`: µs since the epoch. `body`: the JSON that is sent, ASCII, the same at each attempt."""

    kind: Kind
    id: str
    at: int
    body: str


def encoded(members: dict[str, Any]) -> str:
    """Return compact ASCII JSON; half a surrogate pair becomes "?". Raises ValueError for what JSON does not have."""
    text = json.dumps(members, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return json.dumps(json.loads(text), separators=(",", ":"))
