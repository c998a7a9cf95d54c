"""What one audit row says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class AuditEntry(NamedTuple):
    """Something to be recorded. `category` such as `VAULT`, `action` such as `create_entry`, both stable words."""

    category: str
    action: str
    actor: str
    title: str
    entry_id: str | None = None
    payload: Mapping[str, Any] = MappingProxyType({})
    source: str = ""


class AuditEvent(NamedTuple):
    """A recorded audit row. `at` in µs since the epoch; `hash` covers every other field and `prev_hash`."""

    id: int
    at: int
    category: str
    action: str
    actor: str
    entry_id: str | None
    title: str
    payload: Mapping[str, Any]
    source: str
    prev_hash: str
    hash: str
