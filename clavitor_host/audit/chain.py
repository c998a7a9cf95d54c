"""The hash chain itself: pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from clavitor_host import strict_json
from clavitor_host.audit.models import AuditEntry

GENESIS = "0" * 64
"""`prev_hash` of the very first row."""

COLUMNS = ("id", "at", "category", "action", "actor", "entry_id", "title", "payload", "source", "prev_hash")
"""What a row's hash covers, in this order."""


def row_hash(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a stored row: canonical JSON of `COLUMNS`, `payload` as its stored text."""
    return hashlib.sha256(strict_json.dumps([row[name] for name in COLUMNS])).hexdigest()


def link(entries: Sequence[AuditEntry], *, head_id: int, head_hash: str, at: int) -> list[dict[str, Any]]:
    """Return the rows that append `entries` to a chain whose last row is `head_id`, `head_hash`. `at` in µs."""
    rows = []
    for entry in entries:
        head_id += 1
        row: dict[str, Any] = {
            "id": head_id,
            "at": at,
            "category": entry.category,
            "action": entry.action,
            "actor": entry.actor,
            "entry_id": entry.entry_id,
            "title": entry.title,
            "payload": strict_json.canonical(entry.payload).decode() if entry.payload else "{}",
            "source": entry.source,
            "prev_hash": head_hash,
        }
        head_hash = row["hash"] = row_hash(row)
        rows.append(row)
    return rows
