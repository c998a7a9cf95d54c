"""Merging a batch of entries into the vault: which are newer, and writing those.

All of a batch is written by a few statements. When the database refuses that, nothing of it is kept, and each entry
goes alone, so that only the one that cannot be is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import sqlalchemy as sa

from clavitor_commercial_replication import rules, tables
from clavitor_commercial_replication.digests import combined, digest_of
from clavitor_commercial_replication.models import Answer, Failure, Item, Version
from clavitor_commercial_replication.rules import Stamp
from clavitor_host.api import (
    AuditEntry,
    EntryCopy,
    StorageUnavailable,
    Transaction,
    UniqueViolation,
    VaultView,
    log,
)

CATEGORY = "REPLICATION"
ACTOR = "system:replication"

_VERSION = ("entry_id", "epoch", "rev", "digest")
_NEWER = _VERSION[1:]


class _Known(NamedTuple):
    """What is stored of an entry. `at`: `updated_at`, read for the plain format alone. `created_at`: while it lives."""

    epoch: int
    rev: int
    digest: bytes
    at: int = 0
    created_at: int | None = None
    counted: bool = True
    """Whether its digest is in the buckets."""


class _Write(NamedTuple):
    """A write that is to be done, over what is known before it."""

    copy: EntryCopy
    known: _Known
    before: _Known | None


class _Outcome(NamedTuple):
    """What becomes of one item."""

    write: _Write | None
    failure: Failure | None = None


class Merge:
    """Merges into the vault whose head is locked by `tx`.

    `head_rev` and `buckets`: as they are now, for whoever writes them down. `audit`: what is to be recorded.
    """

    def __init__(self, vault: VaultView, tx: Transaction, head_rev: int, buckets: bytes) -> None:
        self._vault = vault
        self._tx = tx
        self.head_rev = head_rev
        self.buckets = buckets
        self.audit: list[AuditEntry] = []

    async def apply(self, pop: str, items: Sequence[Item]) -> Answer:
        """Merge items in their order. Of the answer, only what concerns entries is filled in.

        Raises `StorageUnavailable`.
        """
        known = await self._read(items)
        outcomes = _classified(items, dict(known), self.head_rev)
        try:
            async with self._savepoint():
                await self._write([outcome.write for outcome in outcomes if outcome.write is not None])
        except StorageUnavailable:
            raise
        except Exception:  # noqa: BLE001 - whichever entry it is about fails alone
            outcomes = [await self._alone(item, known) for item in items]
        return self._answer(pop, items, outcomes)

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        """Undo what happens inside when it raises, here too."""
        head_rev, buckets = self.head_rev, self.buckets
        try:
            async with self._tx.savepoint():
                yield
        except BaseException:
            self.head_rev, self.buckets = head_rev, buckets
            raise

    async def _read(self, items: Sequence[Item]) -> dict[str, _Known]:
        """Return what is stored of these entries, by id; what is not there is left out."""
        ids = [item.entry_id for item in items]
        rows = await self._tx.fetch_by_keys(tables.versions, _VERSION, "entry_id", ids)
        known = {row["entry_id"]: _Known(row["epoch"], row["rev"], row["digest"]) for row in rows}
        if all(item.epoch is not None for item in items):
            return known
        for copy in await self._vault.copies_of(self._tx, ids):
            found = known.get(copy.entry_id) or _Known(0, copy.rev, b"", counted=False)
            created_at = copy.created_at if copy.deleted_at is None else None
            known[copy.entry_id] = found._replace(at=copy.updated_at, created_at=created_at)
        return known

    async def _alone(self, item: Item, known: dict[str, _Known]) -> _Outcome:
        """Do one item in a savepoint of its own. known: is brought up to date."""
        before = known.get(item.entry_id)
        (outcome,) = _classified([item], known, self.head_rev)
        if outcome.write is None:
            return outcome
        try:
            try:
                async with self._savepoint():
                    await self._write([outcome.write])
            except UniqueViolation:
                async with self._savepoint():
                    if not await self._make_room(outcome.write, known):
                        raise
                    await self._write([outcome.write])
            return outcome
        except StorageUnavailable:
            raise
        except UniqueViolation:
            detail = f"another entry has rev {outcome.write.copy.rev} here"
            failure = Failure(item.entry_id, "conflict", detail, retryable=False)
        except Exception as error:  # noqa: BLE001 - the others are not concerned
            log.exception("An entry of the primary could not be written", error, entry_id=item.entry_id)
            failure = Failure(item.entry_id, "not_written", "the entry could not be written", retryable=True)
        if before is None:
            known.pop(item.entry_id, None)
        else:
            known[item.entry_id] = before
        return _Outcome(None, failure)

    async def _make_room(self, write: _Write, known: dict[str, _Known]) -> bool:
        """Give the entry that has the rev of `write` another one; return whether it was of a lower epoch."""
        holder = (await self._vault.holders(self._tx, [write.copy.rev])).get(write.copy.rev)
        if holder is None:
            return False
        rows = await self._tx.fetch_by_keys(tables.versions, _VERSION, "entry_id", [holder])
        old = Version(*(rows[0][name] for name in _NEWER)) if rows else None
        if old is not None and old.epoch >= write.known.epoch:
            return False
        rev = (await self._vault.renumber(self._tx, [holder]))[holder]
        (copy,) = await self._vault.copies_of(self._tx, [holder])
        self.head_rev = max(self.head_rev, rev)
        if old is not None:
            new = Version(old.epoch, rev, digest_of(holder, old.epoch, rev, copy.encrypted_data))
            self.buckets = combined(self.buckets, [(holder, old.digest), (holder, new.digest)])
            await self._note([(holder, new)])
            if holder in known:
                known[holder] = known[holder]._replace(rev=rev, digest=new.digest)
        return True

    async def _write(self, writes: Sequence[_Write]) -> None:
        """Write entries, their versions and their hashes. The last write of an entry stands."""
        last = {write.copy.entry_id: write for write in writes}
        gone = [] if rules.keeps_tombstone() else [key for key, write in last.items() if write.copy.deleted_at]
        staying = [write for key, write in last.items() if key not in gone] if gone else list(last.values())
        await self._vault.place(self._tx, [write.copy for write in staying])
        await self._note([(write.copy.entry_id, Version(*write.known[:3])) for write in staying])
        if gone:
            await self._vault.remove(self._tx, gone)
            for entry_id in gone:
                await self._tx.execute(sa.delete(tables.versions).where(tables.versions.c.entry_id == entry_id))
        changes = [(write.copy.entry_id, write.known.digest) for write in staying]
        first = {write.copy.entry_id: write.before for write in reversed(writes)}
        changes += [(key, before.digest) for key, before in first.items() if before is not None and before.counted]
        self.buckets = combined(self.buckets, changes)
        self.head_rev = max([self.head_rev, *(write.copy.rev for write in staying)])

    async def _note(self, versions: Sequence[tuple[str, Version]]) -> None:
        rows = [
            {"entry_id": key, "epoch": version.epoch, "rev": version.rev, "digest": version.digest}
            for key, version in versions
        ]
        await self._tx.insert_many(tables.versions, rows, upsert_on=("entry_id",), update=_NEWER)

    def _answer(self, pop: str, items: Sequence[Item], outcomes: Sequence[_Outcome]) -> Answer:
        """Return what became of each entry; one that is there twice has failed when either did."""
        title = f"replicated from {pop}"
        applied: dict[str, None] = {}
        exists: dict[str, None] = {}
        failures: dict[str, Failure] = {}
        highest = 0
        for item, (write, failure) in zip(items, outcomes, strict=True):
            entry_id = item.entry_id
            if failure is not None:
                failures[entry_id] = failure
                continue
            highest = max(highest, item.rev or 0)
            if write is None:
                exists[entry_id] = None
                continue
            applied[entry_id] = None
            payload = {"epoch": write.known.epoch, "rev": write.known.rev, "operation": item.operation}
            self.audit.append(AuditEntry(CATEGORY, "replicated", ACTOR, title, entry_id, payload))
        return Answer(
            acknowledged=[key for key in applied if key not in failures] if failures else list(applied),
            already_exists=[key for key in exists if key not in applied and key not in failures],
            failures=list(failures.values()),
            applied_max_rev=highest,
        )


def _classified(items: Sequence[Item], known: dict[str, _Known], head_rev: int) -> list[_Outcome]:
    """Decide what becomes of each item, one after another. known: is brought up to date.

    In the plain format a write takes the next rev behind `head_rev`.
    """
    outcomes: list[_Outcome] = []
    for item in items:
        entry_id, data = item.entry_id, item.encrypted_data
        before = known.get(entry_id)
        at = item.timestamp * 1_000_000 if item.updated_at is None else item.updated_at
        if item.epoch is None or item.rev is None:
            stamp, digest = Stamp(None, None, at), None
        else:
            stamp, digest = Stamp(item.epoch, item.rev, at), digest_of(entry_id, item.epoch, item.rev, data)
        if before is not None:
            verdict = rules.verdict(stamp, digest, Stamp(before.epoch, before.rev, before.at), before.digest)
            if verdict == "exists":
                outcomes.append(_Outcome(None))
                continue
            if verdict == "conflict":
                detail = f"this POP has other content under epoch {item.epoch}, rev {item.rev}"
                outcomes.append(_Outcome(None, Failure(entry_id, "conflict", detail, retryable=False)))
                continue
        created_at = at if item.created_at is None else item.created_at
        if digest is None:
            head_rev += 1
            epoch, rev, digest = 0, head_rev, digest_of(entry_id, 0, head_rev, data)
            if before is not None and before.created_at is not None:
                created_at = before.created_at
        else:
            epoch, rev = item.epoch or 0, item.rev or 0
            head_rev = max(head_rev, rev)
        deleted_at = at if item.deleted else None
        copy = EntryCopy(entry_id, rev, data, item.environment_id, created_at, at, deleted_at)
        now = _Known(epoch, rev, digest, at, None if item.deleted else created_at)
        known[entry_id] = now
        outcomes.append(_Outcome(_Write(copy, now, before)))
    return outcomes
