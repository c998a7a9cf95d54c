"""Typed values of the vault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operation = Literal["create", "update", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """One write to one entry, as hooks see it. Times are µs since the epoch.

    `rev`: the vault-wide number of this write. `encrypted_data`: the canonical base64 text as received, None
    for a delete. `actor`: who made it.
    """

    entry_id: str
    operation: Operation
    rev: int
    encrypted_data: str | None
    environment_id: str | None
    created_at: int
    updated_at: int
    actor: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One live entry. Times are µs since the epoch; `encrypted_data` is None where it was not asked for."""

    entry_id: str
    rev: int
    created_at: int
    updated_at: int
    environment_id: str | None = None
    encrypted_data: str | None = None
