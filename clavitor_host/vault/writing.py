"""Writing entries: what a batch of write sets does, inside one transaction.

Every write takes the next rev from `vault_head`, is recorded in the audit log and passes the `entry_changing`
hooks, all in the transaction whose commit answers the request. Concurrent requests share the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_host.audit.models import AuditEntry
from clavitor_host.errors import Problem, StorageUnavailable, forbidden, problem
from clavitor_host.storage.database import Transaction
from clavitor_host.vault.models import Change, Operation, Write, WriteSet
from clavitor_host.vault.tables import entries, entry_departures, vault_head

if TYPE_CHECKING:
    from clavitor_host.host import Host

_HEAD = (
    sa.select(vault_head.c.rev, vault_head.c.updated_at, vault_head.c.live_entries)
    .where(vault_head.c.id == 1)
    .with_for_update()
)
_ADVANCE = (
    sa.update(vault_head)
    .where(vault_head.c.id == 1)
    .values(
        rev=sa.bindparam("new_rev"),
        updated_at=sa.bindparam("new_updated_at"),
        live_entries=sa.bindparam("new_live_entries"),
    )
)
_KNOWN = ("entry_id", "rev", "environment_id", "created_at", "deleted_at")
_WRITTEN = ("encrypted_data", "environment_id", "rev", "created_at", "updated_at", "deleted_at")
_DEPARTED = ("rev", "created_at", "departed_at")
_VERBS: Mapping[Operation, str] = {"create": "created", "update": "updated", "delete": "deleted"}

MAX_PENDING_BYTES = 256 * 1024 * 1024
"""Blob bytes that may wait for a commit; beyond it writes are answered 503."""


class EntryWriter:
    """Puts write sets through the group-commit writer. One per app."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pending_bytes = 0

    async def write(self, wanted: WriteSet) -> Sequence[Change]:
        """Do the writes of one set, all or none; returns when they are durable.

        Raises `Problem` 404, 409 or 412 for a write that cannot be, and 503 when storage cannot take it.
        """
        size = sum(len(write.encrypted_data or "") for write in wanted.writes)
        if self._pending_bytes + size > MAX_PENDING_BYTES:
            raise StorageUnavailable("Too many writes are waiting for the disk.", code="overloaded")
        self._pending_bytes += size
        try:
            return await self._host.writer.submit(self._apply, wanted)
        finally:
            self._pending_bytes -= size

    async def _apply(self, tx: Transaction, sets: Sequence[WriteSet]) -> Sequence[Sequence[Change] | Exception]:
        head = await tx.fetch_one(_HEAD)
        assert head is not None
        ids = list(dict.fromkeys(write.entry_id for wanted in sets for write in wanted.writes))
        known = {row["entry_id"]: row for row in await tx.fetch_by_keys(entries, _KNOWN, "entry_id", ids)}
        batch = _Batch(head, known, self._host.clock.now_us())
        results = [batch.attempt(wanted) for wanted in sets]
        if not batch.changes:
            return results
        await tx.insert_many(entries, list(batch.rows.values()), upsert_on=("entry_id",), update=_WRITTEN)
        await tx.insert_many(
            entry_departures, batch.departures, upsert_on=("environment_id", "entry_id"), update=_DEPARTED
        )
        await tx.execute(
            _ADVANCE,
            {"new_rev": batch.rev, "new_updated_at": batch.updated_at, "new_live_entries": batch.live_entries},
        )
        if self._host.hooks.has("entry_changing"):
            for change in batch.changes:
                await self._host.hooks.in_transaction("entry_changing", host=self._host, tx=tx, change=change)
        await self._host.audit.record(tx, *batch.audit)
        if self._host.hooks.has("entry_changed"):
            tx.after_commit(self._announce(batch.changes))
        return results

    def _announce(self, changes: Sequence[Change]) -> Callable[[], Any]:
        async def announce() -> None:
            for change in changes:
                await self._host.hooks.broadcast("entry_changed", host=self._host, change=change)

        return announce


class _Batch:
    """Decides what the write sets of one transaction do, one after another, without touching the database."""

    def __init__(self, head: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], now: int) -> None:
        self.rev: int = head["rev"]
        self.updated_at: int = head["updated_at"]
        self.live_entries: int = head["live_entries"]
        self.rows: dict[str, dict[str, Any]] = {}
        self.changes: list[Change] = []
        self.departures: list[dict[str, Any]] = []
        self.audit: list[AuditEntry] = []
        self._known = known
        self._now = now

    def attempt(self, wanted: WriteSet) -> Sequence[Change] | Exception:
        """Do one set, or nothing of it and return why."""
        if len(wanted.writes) == 1:  # a refused write has changed nothing
            try:
                return (self._one(wanted.writes[0], wanted),)
            except Problem as error:
                return error
        rev, updated_at, live, rows = self.rev, self.updated_at, self.live_entries, dict(self.rows)
        done, left = len(self.changes), len(self.departures)
        try:
            return [self._one(write, wanted) for write in wanted.writes]
        except Problem as error:
            self.rev, self.updated_at, self.live_entries, self.rows = rev, updated_at, live, rows
            failed = len(self.changes) - done
            del self.changes[done:], self.audit[done:], self.departures[left:]
            error.extra.update(operation=failed, entry_id=wanted.writes[failed].entry_id)
            return error

    def _one(self, write: Write, wanted: WriteSet) -> Change:
        current = self.rows.get(write.entry_id) or self._known.get(write.entry_id)
        lives = current is not None and current["deleted_at"] is None
        _check(write, current if lives else None, wanted.only_environment)
        self.rev += 1
        self.updated_at = max(self._now, self.updated_at + 1)
        operation: Operation = "delete" if write.operation == "delete" else "update" if lives else "create"
        environment_id = write.environment_id
        if current is not None and lives and (write.keep_environment or operation == "delete"):
            environment_id = current["environment_id"]
        elif environment_id is None:
            environment_id = wanted.only_environment
        was_in = current["environment_id"] if current is not None else None
        change = Change(
            entry_id=write.entry_id,
            operation=operation,
            rev=self.rev,
            encrypted_data=None if operation == "delete" else write.encrypted_data,
            environment_id=environment_id,
            created_at=current["created_at"] if current is not None and lives else self.updated_at,
            updated_at=self.updated_at,
            actor=wanted.actor,
            left_environment_id=was_in if was_in != environment_id else None,
            entered_environment=environment_id is not None and not (lives and was_in == environment_id),
        )
        self.rows[write.entry_id] = {
            "entry_id": change.entry_id,
            "encrypted_data": change.encrypted_data,
            "environment_id": environment_id,
            "rev": change.rev,
            "created_at": change.created_at,
            "updated_at": change.updated_at,
            "deleted_at": change.updated_at if operation == "delete" else None,
        }
        if current is not None and change.left_environment_id is not None:
            self._depart(current, change)
        self.live_entries += {"create": 1, "update": 0, "delete": -1}[operation]
        self.changes.append(change)
        self.audit.append(
            AuditEntry(
                category="VAULT",
                action=f"{operation}_entry",
                actor=wanted.actor,
                title=f"{_VERBS[operation]} entry {write.entry_id}",
                entry_id=write.entry_id,
                payload={"rev": change.rev},
                source=wanted.source,
            )
        )
        return change

    def _depart(self, known: Mapping[str, Any], change: Change) -> None:
        """Note that an entry leaves its environment; a tombstone too, which its readers may not have seen yet."""
        self.departures.append(
            {
                "environment_id": known["environment_id"],
                "entry_id": change.entry_id,
                "rev": change.rev,
                "created_at": known["created_at"],
                "departed_at": change.updated_at,
            }
        )


def _check(write: Write, living: Mapping[str, Any] | None, only_environment: str | None) -> None:
    """Raise unless `write` may be done to the living entry (None: it does not live)."""
    if only_environment is not None:
        inside = living is None or living["environment_id"] == only_environment
        if write.operation == "delete" and not inside:
            living = None
        elif not inside or write.environment_id not in (None, only_environment):
            raise forbidden("The token reaches only its own environment.")
    if write.if_none_match and living is not None:
        raise precondition_failed(living["rev"])
    if write.if_match is not None and (
        living is None or (write.if_match != "*" and living["rev"] not in write.if_match)
    ):
        raise precondition_failed(None if living is None else living["rev"])
    if write.operation == "create" and living is not None:
        raise problem(409, "entry_exists", f"An entry with the id {write.entry_id} exists.", rev=living["rev"])
    if write.operation == "delete" and living is None:
        raise entry_not_found()


def entry_not_found() -> Problem:
    """Return the 404 for an entry that does not live, or that the caller may not know of."""
    return problem(404, "entry_not_found", "There is no entry with this id.")


def precondition_failed(rev: int | None) -> Problem:
    """Return the 412 of a failed If-Match or If-None-Match; `rev` is the entry's own, None when it does not live."""
    return problem(412, "precondition_failed", "The entry is not in the state that the request requires.", rev=rev)
