"""Taking the primary's writes: one request is one transaction, and is answered after its commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from clavitor_commercial_replication import digests, fencing, mirror, rules, state, tables
from clavitor_commercial_replication.merging import ACTOR, CATEGORY, Merge
from clavitor_commercial_replication.models import Answer, Batch, Peer, State
from clavitor_commercial_replication.words import are, as_role, entries
from clavitor_host.api import AuditEntry, PointRead, Problem, StorageUnavailable, Transaction, problem

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

NOT_A_BACKUP = "not_a_backup"
CONFLICT_ALERT = "REPLICATION_CONFLICT"

_READ = PointRead(
    sa.select(
        *(tables.state.c[name] for name in State._fields),
        tables.state.c.buckets,
        *(tables.peer.c[name].label(f"peer_{name}") for name in Peer._fields),
    )
    .select_from(tables.state.join(tables.peer, tables.peer.c.id == tables.state.c.id))
    .where(tables.state.c.id == 1)
)
_WRITE_STATE = """
UPDATE replication_state SET epoch = :epoch, stream_id = :stream_id, head_rev = :head_rev, buckets = :buckets
WHERE id = 1
"""
_WRITE_PEER = """
UPDATE replication_peer SET pop = :pop, heard_at = :heard_at, head_rev = :head_rev, depth = :depth,
    complete_rev = :complete_rev, applied_max_rev = :applied_max_rev, as_of = :as_of, compared_at = :compared_at,
    mismatches = :mismatches, audit_head = :audit_head
WHERE id = 1
"""
_ELSEWHERE = ("acked_at", "tokens_digest", "last_error", "last_error_at")
"""Of the peer, what others write."""


class _Sent(NamedTuple):
    service: Replication
    pop: str
    batch: Batch


async def apply(service: Replication, pop: str, batch: Batch) -> Answer:
    """Apply a batch from the POP `pop`, and return what became of each entry once it is durable.

    Raises 409 `not_a_backup`, `stale_epoch` or `foreign_stream`, and `StorageUnavailable`: then nothing is applied. A
    POP that is no backup and is shown a higher epoch has been superseded: it turns read-only before it refuses.
    """
    try:
        answer = await service.host.writer.submit(_apply, _Sent(service, pop, batch))
    except Problem as error:
        epoch = batch.epoch or 0
        if error.code == NOT_A_BACKUP and error.extra["role"] != "backup" and epoch > error.extra["epoch"]:
            await fencing.fence(service, "superseded", epoch)
        raise
    await _tell(service, pop, answer)
    return answer


async def _apply(tx: Transaction, requests: Sequence[_Sent]) -> Sequence[Answer | Exception]:
    """Apply the requests that share one commit, in their order."""
    backup = await _Backup.open(requests[0].service, tx)
    answers: list[Answer | Exception] = []
    for request in requests:
        try:
            answers.append(await backup.take(request.pop, request.batch))
        except StorageUnavailable:
            raise
        except Problem as error:
            answers.append(error)
    await backup.close()
    audit_id, digest = await requests[0].service.host.audit.head(tx)
    told = f"{audit_id}:{digest}"
    return [one._replace(audit_head=told) if isinstance(one, Answer) else one for one in answers]


async def _tell(service: Replication, pop: str, answer: Answer) -> None:
    """Count what was done, and tell the operator of conflicts: somebody else has written here."""
    applied = service.metrics.applied
    for outcome, ids in (("applied", answer.acknowledged), ("exists", answer.already_exists)):
        if ids:
            applied.labels(outcome).inc(len(ids))
    if not answer.failures:
        return
    applied.labels("failed").inc(len(answer.failures))
    conflicts = [failure.entry_id for failure in answer.failures if failure.code == "conflict"]
    if conflicts:
        await service.host.edition.alert_operator(
            CONFLICT_ALERT,
            f"{entries(len(conflicts))} of {pop} {are(len(conflicts))} refused: this POP has other content under the "
            "same number.",
            {"pop": pop, "entries": conflicts[:20], "count": len(conflicts)},
        )


class _Backup:
    """What this POP is and knows, from the lock to the end of one transaction."""

    def __init__(self, service: Replication, tx: Transaction, found: State, peer: Peer, merge: Merge) -> None:
        self._service = service
        self._tx = tx
        self._state = found
        self._peer = peer
        self._merge = merge
        self._now = service.host.clock.now_us()
        self._changed = False

    @classmethod
    async def open(cls, service: Replication, tx: Transaction) -> _Backup:
        """Lock the vault's head, and read."""
        head = await service.host.vault.lock(tx)
        row = await tx.point_read(_READ)
        assert row is not None
        width = len(State._fields)
        merge = Merge(service.host.vault, tx, head.rev, row[width])
        return cls(service, tx, State(*row[:width]), Peer(*row[width + 1 :]), merge)

    async def take(self, pop: str, batch: Batch) -> Answer:
        """Apply one request."""
        await self._admit(pop, batch)
        self._changed = True
        done = await self._merge.apply(pop, batch.items) if batch.items else _NOTHING
        if batch.tokens is not None and not self._is_late(batch):
            known = mirror.digest(batch.tokens)
            await mirror.replace(self._tx, batch.tokens, known)
            self._peer = self._peer._replace(tokens_digest=known)
        differing = self._compare(batch)
        self._hear(pop, batch, done, differing)
        return done._replace(
            epoch=self._state.epoch,
            applied_max_rev=self._peer.applied_max_rev,
            batch_id=batch.batch_id,
            differing=differing,
            tokens_digest=self._peer.tokens_digest,
            complete_rev=self._peer.complete_rev if self._state.reseed_from is None else None,
            pop=self._service.config.source_pop,
        )

    async def close(self) -> None:
        """Write what has changed; the audit rows last, since they lock the audit log."""
        if not self._changed:
            return
        found, peer, merge = self._state, self._peer, self._merge
        about = {"epoch": found.epoch, "stream_id": found.stream_id}
        await self._tx.execute(_WRITE_STATE, {**about, "head_rev": merge.head_rev, "buckets": merge.buckets})
        await self._tx.execute(_WRITE_PEER, {k: v for k, v in peer._asdict().items() if k not in _ELSEWHERE})
        if self._merge.audit:
            await self._service.host.audit.record(self._tx, *self._merge.audit)

    async def _admit(self, pop: str, batch: Batch) -> None:
        """Raise unless this POP follows that one's stream; a higher epoch is followed from now on."""
        known = self._state
        about = {"epoch": known.epoch, "role": known.role, "stream_id": known.stream_id}
        if known.role != "backup":
            raise problem(409, NOT_A_BACKUP, f"This POP is no backup; it is {as_role(known.role)}.", **about)
        if batch.epoch is None:
            return
        if rules.is_stale(batch.epoch, known.epoch):
            detail = f"The primary of epoch {batch.epoch} has been superseded: this POP knows epoch {known.epoch}."
            raise problem(409, "stale_epoch", detail, **about)
        if batch.epoch > known.epoch:
            await self._adopt(pop, batch)
        elif batch.epoch == known.epoch and known.stream_id not in (None, batch.stream_id):
            detail = f"This POP follows another primary's stream in epoch {known.epoch}: promote one of them anew."
            raise problem(409, "foreign_stream", detail, **about)

    async def _adopt(self, pop: str, batch: Batch) -> None:
        """Follow another epoch: what was counted in the last one's numbers is unknown in the new ones."""
        before = self._state
        assert batch.epoch is not None
        self._state = before._replace(epoch=batch.epoch, stream_id=batch.stream_id)
        self._peer = self._peer._replace(
            head_rev=0,
            depth=0,
            complete_rev=0,
            applied_max_rev=0,
            as_of=None,
            audit_head=None,
            compared_at=None,
            mismatches=0,
        )
        self._merge.audit.append(
            AuditEntry(
                category=CATEGORY,
                action="adopt_epoch",
                actor=ACTOR,
                title=f"follows {pop} in epoch {batch.epoch}",
                payload={"epoch": batch.epoch, "stream_id": batch.stream_id or "", "epoch_before": before.epoch},
            )
        )
        await self._service.host.signals.send(self._tx, state.CHANGED)

    def _hear(self, pop: str, batch: Batch, done: Answer, differing: Sequence[int] | None) -> None:
        """Note what the request says of its sender. A late duplicate takes nothing back."""
        told = None if self._is_late(batch) else batch.audit_head
        peer = self._peer._replace(pop=pop, heard_at=self._now, audit_head=told or self._peer.audit_head)
        newest = batch.head_rev is not None and batch.head_rev >= peer.head_rev
        if newest:
            left = (
                (batch.depth or 0) - len(done.acknowledged) - len(done.already_exists)
            )  # its own entries are here now
            peer = peer._replace(head_rev=batch.head_rev or 0, depth=max(0, left))
        if not done.failures and self._believes(batch, differing):
            if batch.complete_rev is not None:
                peer = peer._replace(complete_rev=max(peer.complete_rev, batch.complete_rev))
            if newest and batch.as_of is not None:
                peer = peer._replace(as_of=self._until(batch.as_of))
        if batch.epoch is not None:
            peer = peer._replace(applied_max_rev=max(peer.applied_max_rev, done.applied_max_rev))
        self._peer = peer

    def _is_late(self, batch: Batch) -> bool:
        """Tell whether the sender has said something since: its audit log, which every change of a token makes longer,
        was shorter then, and its clock further back. What was revoked meanwhile is not to come back."""
        known, as_of, sent_at = _audit_id(self._peer.audit_head), self._peer.as_of, batch.sent_at
        return _audit_id(batch.audit_head) < known and as_of is not None and sent_at is not None and sent_at <= as_of

    def _believes(self, batch: Batch, differing: Sequence[int] | None) -> bool:
        """Tell whether what the primary says is here can be so: both were found equal when they were last compared in
        this epoch, and nothing is lost of what this POP has confirmed since."""
        peer = self._peer
        if self._state.reseed_from is not None or peer.compared_at is None or peer.mismatches:
            return False
        if differing is not None:
            return True  # they are equal now
        return (batch.confirmed_rev or 0) <= peer.complete_rev and (
            batch.confirmed_max_rev or 0
        ) <= peer.applied_max_rev

    def _until(self, as_of: int) -> int:
        """Return up to when the primary's writes are here: no later than it is now, whatever its clock says, and not
        earlier than is known already, unless this POP's own clock was wrong then."""
        known = self._peer.as_of
        now = min(as_of, self._now)
        return now if known is None or known > self._now else max(known, now)

    def _compare(self, batch: Batch) -> list[int] | None:
        """Return the buckets that differ; None when none were sent, or when they say nothing: an old request's, or
        while a re-seed is under way."""
        if batch.buckets is None or self._state.reseed_from is not None:
            return None
        if batch.head_rev is not None and batch.head_rev < self._peer.head_rev:
            return None
        differing = digests.differing(self._merge.buckets, batch.buckets)
        self._peer = self._peer._replace(compared_at=self._now, mismatches=len(differing))
        return differing


def _audit_id(head: str | None) -> int:
    """Return the number of the last row of an audit log; 0 for what is not known."""
    number = (head or "").partition(":")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 20 else 0


_NOTHING = Answer((), (), ())
