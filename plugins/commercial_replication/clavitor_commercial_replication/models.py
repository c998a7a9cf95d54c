"""Typed values of replication. Times are µs since the epoch unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

MAX_ENTRIES = 100
"""Entries of one request, at most."""

Role = Literal["primary", "backup", "fenced"]
"""`fenced`: was a primary, and has learned that it may not go on: read-only until it is re-seeded or promoted."""

Operation = Literal["create", "update", "delete"]

FencedBecause = Literal["superseded", "behind"]
"""Why a primary was fenced: its backup knows a higher epoch, or has applied more than this vault ever wrote."""


class State(NamedTuple):
    """The row of `replication_state` without its bucket hashes: what this POP is.

    `epoch`: grows with every promotion; 0 on a backup that no primary has spoken to. `stream_id`: names the history
    that `rev`s belong to, its own on a primary, the primary's on a backup. `head_rev`: the vault's head at the last
    write that was accounted for. `enlisted`: every entry has its row in `replication_versions`. `reseed_from`: the
    primary's URL while a re-seed is under way, `reseed_after` how far it has come.
    `former_epoch`, `former_stream_id`: what this POP wrote or followed before its last promotion or its fencing.
    `promoted_complete_rev`, `promoted_from_rev`: on a promoted primary, how far it had everything then, and behind
    which rev its own writes begin: no rev in between says anything about what is here.
    """

    role: Role
    role_since: int
    reason: FencedBecause | None
    epoch: int
    stream_id: str | None
    head_rev: int
    enlisted: bool
    reseed_from: str | None
    reseed_after: str
    former_epoch: int | None = None
    former_stream_id: str | None = None
    promoted_complete_rev: int | None = None
    promoted_from_rev: int | None = None


class Peer(NamedTuple):
    """The row of `replication_peer`: what is known of the other POP. None: not known yet.

    On both: `pop` its name, `heard_at` when it last spoke or answered, `last_error` and when, `audit_head` of its audit
    chain as it last said; `compared_at` and `mismatches` (buckets that differ) of the last comparison that was
    answered.
    On a primary: `acked_at` the last success, `complete_rev` and `applied_max_rev` what the backup said it has,
    `tokens_digest` of the tokens that the backup has.
    On a backup: `head_rev` and `depth` as the primary last said, `complete_rev`: every write up to it is here, `as_of`:
    every write acknowledged before it is here, `applied_max_rev`: the highest rev of this stream that is here.
    """

    pop: str | None
    heard_at: int | None
    acked_at: int | None
    head_rev: int
    depth: int
    complete_rev: int
    applied_max_rev: int
    as_of: int | None
    tokens_digest: str | None
    compared_at: int | None
    mismatches: int
    last_error: str | None
    last_error_at: int | None
    audit_head: str | None = None


class Version(NamedTuple):
    """Which write an entry is at. `(epoch, rev)` orders writes; `digest` covers them and the content."""

    epoch: int
    rev: int
    digest: bytes


class Item(NamedTuple):
    """One entry on the wire: its final state.

    `timestamp`: the seed's, in whole seconds. The rest is None from a sender of the seed's plain format.
    """

    entry_id: str
    operation: Operation
    encrypted_data: str | None
    timestamp: int
    epoch: int | None = None
    rev: int | None = None
    sha256: str | None = None
    environment_id: str | None = None
    created_at: int | None = None
    updated_at: int | None = None

    @property
    def deleted(self) -> bool:
        return self.operation == "delete"


class MirroredToken(NamedTuple):
    """A client's token, as the backup honours it for reading."""

    hash: str
    kind: Literal["user", "agent"]
    owner: str
    role: str | None
    scope: Literal["read", "write"]
    environment_id: str | None
    agent_id: str | None
    expires_at: int | None


class Batch(NamedTuple):
    """One request to `/api/replication/apply`. Everything but `source_pop` and `items` is None in the plain format.

    `head_rev`, `depth`, `sent_at`: the sender's vault when it made the batch. `complete_rev`, `as_of`: see `Peer`; they
    hold once this batch is applied, if the backup still has what it confirmed before: `confirmed_rev` and
    `confirmed_max_rev`, its `complete_rev` and `applied_max_rev` as it last said. None: not known. `buckets`: the
    sender's 256 hashes as they are once it is applied. `audit_head`: of the sender's audit chain, `<id>:<hash>`.
    `tokens`: all of the sender's, when they have changed; `tokens_digest` of them. No items: a heartbeat.
    """

    source_pop: str
    items: Sequence[Item]
    epoch: int | None = None
    stream_id: str | None = None
    batch_id: str | None = None
    head_rev: int | None = None
    depth: int | None = None
    sent_at: int | None = None
    complete_rev: int | None = None
    as_of: int | None = None
    audit_head: str | None = None
    buckets: bytes | None = None
    tokens: Sequence[MirroredToken] | None = None
    tokens_digest: str | None = None
    confirmed_rev: int | None = None
    confirmed_max_rev: int | None = None


class Failure(NamedTuple):
    """Why an entry was not applied. `code`: `conflict`, `invalid_…`; `retryable`: the same may work later."""

    entry_id: str
    code: str
    detail: str
    retryable: bool


class Answer(NamedTuple):
    """The backup's answer to a batch, after its commit.

    `acknowledged`, `already_exists`: entry ids that the sender may forget. `failed`: those that are not applied.
    `differing`: the buckets whose hashes differ, None when none were compared. `tokens_digest`: of the tokens it has.
    `complete_rev`: up to where it has everything, None while that is not known. `pop`: its name. `audit_head`: of its
    audit chain, `<id>:<hash>`.
    """

    acknowledged: Sequence[str]
    already_exists: Sequence[str]
    failures: Sequence[Failure]
    epoch: int = 0
    applied_max_rev: int = 0
    batch_id: str | None = None
    differing: Sequence[int] | None = None
    tokens_digest: str | None = None
    complete_rev: int | None = None
    pop: str | None = None
    audit_head: str | None = None


class Task(NamedTuple):
    """One row of `replication_queue`: the seed's ReplicationTask. `queued_at`: when the primary applied the write."""

    rev: int
    entry_id: str
    method: Operation
    raw_payload: str | None
    environment_id: str | None
    epoch: int
    created_at: int
    queued_at: int
    retry_count: int
