"""What clients hear and read. Times are µs since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
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


class Origin(NamedTuple):
    """Where an answer came from: the `url` of a server. `as_of`, `lag`: where it is a backup, the moment up to which it
    has everything, and the seconds since then; None from a primary."""

    url: str
    as_of: datetime | None = None
    lag: float | None = None

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str]) -> Self:
        """Return the origin that an answer's headers tell. Raises `ValueError`."""
        as_of, lag = headers.get("X-Clavitor-As-Of"), headers.get("X-Clavitor-Lag")
        return cls(
            url,
            None if as_of is None else datetime.fromisoformat(as_of),
            None if lag is None else float(lag),
        )


class VaultEntry(NamedTuple):
    """A living entry. `encrypted_data`: base64 of what whoever wrote it encrypted; None where it was not asked for."""

    entry_id: str
    rev: int
    created_at: int
    updated_at: int
    environment_id: str | None
    encrypted_data: str | None
    origin: Origin

    @classmethod
    def of(cls, told: Mapping[str, Any], origin: Origin) -> Self:
        """Return an entry as the server tells it. Raises `KeyError` and `TypeError` for what is none."""
        return cls(*_place(told), told.get("encrypted_data"), origin)


class EntriesPage(NamedTuple):
    """`next_cursor`: where to go on, None at the end."""

    entries: Sequence[VaultEntry]
    next_cursor: str | None
    origin: Origin


class VaultChange(NamedTuple):
    """The last change of an entry. `deleted`: it is there no more, or left the environment of the token."""

    entry_id: str
    rev: int
    created_at: int
    updated_at: int
    environment_id: str | None
    deleted: bool
    encrypted_data: str | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Return a change as the server tells it. Raises `KeyError` and `TypeError` for what is none."""
        return cls(*_place(told), bool(told["deleted"]), told.get("encrypted_data"))


class ChangesPage(NamedTuple):
    """`next_since`: the rev to go on from. `more`: there are further changes now."""

    changes: Sequence[VaultChange]
    next_since: int
    more: bool
    origin: Origin


class Written(NamedTuple):
    """An entry after a write. `created`: it was not there before."""

    entry_id: str
    rev: int
    created_at: int
    updated_at: int
    environment_id: str | None
    created: bool

    @classmethod
    def of(cls, told: Mapping[str, Any], *, created: bool) -> Self:
        """Return what the server tells of a write. Raises `KeyError` and `TypeError` for what is none."""
        return cls(*_place(told), created)


class BatchResult(NamedTuple):
    """What one operation of a batch did: `create`, `update` or `delete`."""

    entry_id: str
    operation: str
    rev: int


def _place(told: Mapping[str, Any]) -> tuple[str, int, int, int, str | None]:
    return (
        str(told["entry_id"]),
        int(told["rev"]),
        int(told["created_at"]),
        int(told["updated_at"]),
        told.get("environment_id"),
    )
