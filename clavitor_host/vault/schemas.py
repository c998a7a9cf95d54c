"""The JSON bodies of the vault API, for its OpenAPI document. `validation` checks them on the hot path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from clavitor_host.strict_json import MAX_INTEGER
from clavitor_host.vault.validation import ENTRY_ID_PATTERN, MAX_BATCH

EntryId = Annotated[str, Field(pattern=ENTRY_ID_PATTERN, description="1 to 128 of A-Z a-z 0-9 . _ -")]
Blob = Annotated[
    str,
    Field(
        min_length=4,
        max_length=1_398_104,
        pattern=r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)$",
        description="Canonical base64 (RFC 4648 section 4) of what the client encrypted, at most 1 MiB decoded.",
    ),
]
Micros = Annotated[int, Field(description="µs since the epoch")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class PutEntry(_Body):
    encrypted_data: Blob
    environment_id: EntryId | None = None


class PostEntry(PutEntry):
    entry_id: EntryId | None = None


class _Reply(BaseModel):
    model_config = ConfigDict(defer_build=True)


class EntryMeta(_Reply):
    entry_id: EntryId
    rev: int
    created_at: Micros
    updated_at: Micros
    environment_id: EntryId | None = None


class EntryOut(EntryMeta):
    encrypted_data: Blob


class EntryPage(_Reply):
    entries: list[EntryMeta]
    next_cursor: str | None


class ChangeOut(EntryMeta):
    deleted: bool


class ChangePage(_Reply):
    changes: list[ChangeOut]
    next_since: Annotated[int, Field(description="`since` of the next page")]
    more: bool


class CreateOrPut(PutEntry):
    operation: Literal["create", "put"]
    entry_id: EntryId
    if_match: int | None = Field(None, ge=0, le=MAX_INTEGER, description="A rev the living entry must have")
    if_none_match: Literal["*"] | None = None


class Delete(_Body):
    operation: Literal["delete"]
    entry_id: EntryId
    environment_id: EntryId | None = None
    if_match: int | None = Field(None, ge=0, le=MAX_INTEGER)
    if_none_match: None = None


class Batch(_Body):
    operations: list[CreateOrPut | Delete] = Field(min_length=1, max_length=MAX_BATCH)


class BatchResult(_Reply):
    entry_id: EntryId
    operation: Literal["create", "update", "delete"]
    rev: int


class BatchOut(_Reply):
    results: list[BatchResult]
