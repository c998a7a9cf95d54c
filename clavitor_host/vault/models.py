"""Typed values of the vault."""

from __future__ import annotations

from typing import Literal, NamedTuple

Operation = Literal["create", "update", "delete"]


class Change(NamedTuple):
    """One write to one entry, as hooks see it. Times are µs since the epoch.

    `rev`: the vault-wide number of this write. `encrypted_data`: the canonical base64 text as received, None
    for a delete. `actor`: who made it. `left_environment_id`: the environment that the entry has left with this write.
    `entered_environment`: it was not in `environment_id` before: created there, or moved from another or from none.
    """

    entry_id: str
    operation: Operation
    rev: int
    encrypted_data: str | None
    environment_id: str | None
    created_at: int
    updated_at: int
    actor: str
    left_environment_id: str | None = None
    entered_environment: bool = False


class EntryChange(NamedTuple):
    """The last change of an entry as one environment sees it: no blob. `updated_at` in µs since the epoch.

    `environment_id`: the environment that sees it. `deleted`: the entry was deleted, or moved out of it.
    """

    entry_id: str
    rev: int
    environment_id: str
    deleted: bool
    updated_at: int


class EntryChanges(NamedTuple):
    """One page of changes, in rev order. `next_since`: the rev to go on from. `more`: there are further ones now."""

    changes: tuple[EntryChange, ...]
    next_since: int
    more: bool


class Entry(NamedTuple):
    """One live entry. Times are µs since the epoch; `encrypted_data` is None where it was not asked for."""

    entry_id: str
    rev: int
    created_at: int
    updated_at: int
    environment_id: str | None = None
    encrypted_data: str | None = None


class EntryCopy(NamedTuple):
    """All of an entry, or of its tombstone, as one vault numbered and dated it. Times are µs since the epoch.

    `encrypted_data`: the canonical base64 text, None for a tombstone. `deleted_at`: None while it lives.
    """

    entry_id: str
    rev: int
    encrypted_data: str | None
    environment_id: str | None
    created_at: int
    updated_at: int
    deleted_at: int | None


class VaultHead(NamedTuple):
    """The last `rev` and `updated_at` (µs since the epoch) that the vault gave, and how many entries live in it."""

    rev: int
    updated_at: int
    live_entries: int


class Write(NamedTuple):
    """One requested write.

    `operation`: "create" refuses a living id, "put" creates or replaces, "delete" leaves a tombstone.
    `if_match`: revs of which the living entry must have one, `"*"` for any living entry. `if_none_match`: the
    entry must not live. `keep_environment`: an update that leaves `environment_id` as it is.
    """

    operation: Literal["create", "put", "delete"]
    entry_id: str
    encrypted_data: str | None = None
    environment_id: str | None = None
    keep_environment: bool = True
    if_match: frozenset[int] | Literal["*"] | None = None
    if_none_match: bool = False


class WriteSet(NamedTuple):
    """Writes that happen all or none, and who asks. `only_environment`: the credential reaches no other."""

    writes: tuple[Write, ...]
    actor: str
    source: str
    only_environment: str | None = None
