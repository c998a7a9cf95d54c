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


_Outcome = _Write | Failure | None
"""What becomes of one item; None: nothing, since it or a newer one is here."""


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
                await self._write([outcome for outcome in outcomes if type(outcome) is _Write])
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
        (write,) = _classified([item], known, self.head_rev)
        if type(write) is not _Write:
            return write
        try:
            try:
                async with self._savepoint():
                    await self._write([write])
            except UniqueViolation:
                async with self._savepoint():
                    if not await self._make_room(write, known):
                        raise
                    await self._write([write])
            return write
        except StorageUnavailable:
            raise
        except UniqueViolation:
            detail = f"another entry has rev {write.copy.rev} here"
            failure = Failure(item.entry_id, "conflict", detail, retryable=False)
        except Exception as error:  # noqa: BLE001 - the others are not concerned
            log.exception("An entry of the primary could not be written", error, entry_id=item.entry_id)
            failure = Failure(item.entry_id, "not_written", "the entry could not be written", retryable=True)
        if before is None:
            known.pop(item.entry_id, None)
        else:
            known[item.entry_id] = before
        return failure

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
            digest = digest_of(holder, old.epoch, rev, copy.encrypted_data)
            if old.epoch < 0:  # a re-seed has not come to it, so it is not in the hashes
                digest = old.digest
            new = Version(old.epoch, rev, digest)
            self.buckets = combined(self.buckets, [(holder, old.digest), (holder, new.digest)])
            await self._note([(holder, *new)])
            if holder in known:
                known[holder] = known[holder]._replace(rev=rev, digest=new.digest)
        return True

    async def _write(self, writes: Sequence[_Write]) -> None:
        """Write entries, their versions and their hashes. The last write of an entry stands."""
        last = {write.copy.entry_id: write for write in writes}
        gone = [] if rules.keeps_tombstone() else [key for key, write in last.items() if write.copy.deleted_at]
        for entry_id in gone:
            del last[entry_id]
        staying = last.values()
        await self._vault.place(self._tx, [write.copy for write in staying])
        await self._note([(key, write.known.epoch, write.known.rev, write.known.digest) for key, write in last.items()])
        if gone:
            await self._vault.remove(self._tx, gone)
            for entry_id in gone:
                await self._tx.execute(sa.delete(tables.versions).where(tables.versions.c.entry_id == entry_id))
        changes = [(write.copy.entry_id, write.known.digest) for write in staying]
        first = {write.copy.entry_id: write.before for write in reversed(writes)}
        changes += [(key, before.digest) for key, before in first.items() if before is not None and before.counted]
        self.buckets = combined(self.buckets, changes)
        self.head_rev = max([self.head_rev, *[write.copy.rev for write in staying]])

    async def _note(self, versions: Sequence[tuple[str, int, int, bytes]]) -> None:
        """Write down which write each entry is at: id, epoch, rev, digest."""
        rows = [dict(zip(_VERSION, version, strict=True)) for version in versions]
        await self._tx.insert_many(tables.versions, rows, upsert_on=("entry_id",), update=_NEWER)

    def _answer(self, pop: str, items: Sequence[Item], outcomes: Sequence[_Outcome]) -> Answer:
        """Return what became of each entry; one that is there twice has failed when either did."""
        title = f"replicated from {pop}"
        applied: dict[str, None] = {}
        exists: dict[str, None] = {}
        failures: dict[str, Failure] = {}
        highest = 0
        for item, outcome in zip(items, outcomes, strict=True):
            entry_id = item.entry_id
            if type(outcome) is Failure:
                failures[entry_id] = outcome
                continue
            highest = max(highest, item.rev or 0)
            if type(outcome) is not _Write:
                exists[entry_id] = None
                continue
            applied[entry_id] = None
            known = outcome.known
            payload = {"epoch": known.epoch, "rev": known.rev, "operation": item.operation}
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
    for entry_id, operation, data, timestamp, sent_epoch, sent_rev, _, environment_id, created_at, updated_at in items:
        epoch, rev = sent_epoch, sent_rev
        before = known.get(entry_id)
        at = timestamp * 1_000_000 if updated_at is None else updated_at
        digest = None if epoch is None or rev is None else digest_of(entry_id, epoch, rev, data)
        if before is not None:
            stored = Stamp(before.epoch, before.rev, before.at)
            verdict = rules.verdict(Stamp(epoch, rev, at), digest, stored, before.digest)
            if verdict != "apply":
                outcomes.append(None if verdict == "exists" else _conflict(entry_id, epoch, rev))
                continue
        began = at if created_at is None else created_at
        if epoch is None or rev is None or digest is None:
            epoch, rev = 0, head_rev + 1
            digest = digest_of(entry_id, epoch, rev, data)
            if before is not None and before.created_at is not None:
                began = before.created_at
        head_rev = max(head_rev, rev)
        ended = at if operation == "delete" else None
        now = _Known(epoch, rev, digest, at, began if ended is None else None)
        known[entry_id] = now
        outcomes.append(_Write(EntryCopy(entry_id, rev, data, environment_id, began, at, ended), now, before))
    return outcomes


def _conflict(entry_id: str, epoch: int | None, rev: int | None) -> Failure:
    detail = f"this POP has other content under epoch {epoch}, rev {rev}"
    return Failure(entry_id, "conflict", detail, retryable=False)
