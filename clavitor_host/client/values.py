"""What an agent hears and reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Command(NamedTuple):
    """A command to carry out, and then to acknowledge. Times are µs since the epoch."""

    id: str
    seq: int
    type: str
    payload: Mapping[str, Any]
    created_at: int
    expires_at: int


class EntryChanged(NamedTuple):
    """An entry of the agent's environment was written, or is not there any more (`deleted`)."""

    entry_id: str
    rev: int
    deleted: bool
    updated_at: int


class Artifact(NamedTuple):
    """What an agent's deployment runs: a version of its app. `sha256`: of the bytes, hex."""

    id: str
    version: str
    sha256: str


class Resync(NamedTuple):
    """Read all entries (again). `reason`: `start`, or why changes may have been missed: `unknown`, `too_old`."""

    reason: str


Event = Command | EntryChanged | Resync


class Entry(NamedTuple):
    """An entry. `encrypted_data`: base64 of what whoever wrote it encrypted. Times are µs since the epoch."""

    entry_id: str
    encrypted_data: str
    rev: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """Return an entry as the server tells it."""
        return cls(**{field: found[field] for field in cls._fields})
