"""Making the requests to the backup: a batch of the queue, or a heartbeat, and what they say beside the entries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from clavitor_commercial_replication import mirror, queue, rules, state
from clavitor_commercial_replication.models import Answer, Batch, Item, State, Task
from clavitor_commercial_replication.queue import Slice
from clavitor_host.api import Transaction

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication
    from clavitor_commercial_replication.window import Window

COUNT_INTERVAL = 1.0
"""Seconds for which the depth of a long queue is not counted again."""

COMPARE_AGAIN = 1.0
"""Seconds after which a comparison is tried again that could not be made, or was not answered."""


class Batches:
    """`known_tokens`: digest of the tokens that the backup has, as it last said; `refused_tokens`: of those that it
    does not take. `complete`: the last request said all there is to say, so no heartbeat needs to."""

    def __init__(self, service: Replication) -> None:
        self._service = service
        self._host = service.host
        self._numbers = count(1)
        self._depth = 0
        self._counted_at = float("-inf")
        self._compare_at = float("-inf")
        self._confirmed = (0, 0)
        self._audit_head: str | None = None
        self.known_tokens: str | None = None
        self.refused_tokens: str | None = None
        self.complete = False

    @property
    def compare_in(self) -> float:
        """Seconds until the hashes should be compared; negative when that is overdue."""
        return self._compare_at - self._host.clock.monotonic()

    def answered(self, batch: Batch, answer: Answer) -> None:
        """Take note of what the backup has."""
        if batch.tokens_digest is not None:
            self.known_tokens = answer.tokens_digest
        complete_rev, highest = self._confirmed
        if answer.complete_rev is not None:
            complete_rev = max(complete_rev, answer.complete_rev)
        self._confirmed = (complete_rev, max(highest, answer.applied_max_rev))
        if batch.buckets is not None and answer.differing is not None:
            self._compare_at = self._host.clock.monotonic() + self._service.config.compare_interval
        elif batch.complete_rev is not None and (answer.complete_rev or 0) < batch.complete_rev:
            self.compare_soon()  # it does not believe it before both are found equal

    def compare_soon(self) -> None:
        """Have the hashes compared at the next moment when nothing waits, a second from now at the earliest."""
        self._compare_at = min(self._compare_at, self._host.clock.monotonic() + COMPARE_AGAIN)

    def begin_anew(self) -> None:
        """Have the hashes compared as soon as nothing waits: the backup is not what it was."""
        self._compare_at = float("-inf")

    async def heartbeat(self, *, alone: bool = True) -> Batch | None:
        """Return a request without entries: how this POP is, its tokens when they have changed, and its hashes when
        it is time and nothing is dirty; None when it is not the primary. alone: nothing is on its way; else it claims
        nothing."""
        now = await self._all_committed()
        async with self._host.db.snapshot() as tx:
            known, peer = await state.required(tx), await state.peer(tx)
            if known.role != "primary":
                return None
            self._confirmed = (peer.complete_rev, peer.applied_max_rev)
            self._set_depth(await queue.depth(tx))
            await self._look_at_audit(tx)
            clean = alone and not self._depth
            batch = self.plain(known, (), now)._replace(head_rev=known.head_rev)
            if alone:
                self.complete = clean or not (await queue.look(tx, limit=1)).tasks
                batch = self._claiming(batch, now, complete=clean)
                if self.compare_in <= 0:
                    pause = COMPARE_AGAIN if clean else self._service.config.heartbeat_interval
                    batch = batch._replace(buckets=await self._buckets(tx, clean, pause))
            return await self._with_tokens(tx, batch)

    async def next(
        self, known: State, window: Window, *, max_bytes: int, resting: Collection[str]
    ) -> tuple[Slice, Batch]:
        """Return what to send next, and the request for it. When nothing else is under way, it says how far the backup
        then has everything. resting: entries that are left alone for now."""
        at = self._host.clock.now_us()
        alone, after_rev = window.answered, window.cursor
        skip = window.busy.union(resting) if resting else window.busy
        look = partial(queue.look, after_rev=after_rev, max_bytes=max_bytes, skip=skip, settled=window.settled)
        comparing = alone and self.compare_in <= 0
        counting = self._host.clock.monotonic() - self._counted_at > COUNT_INTERVAL
        buckets = None
        if comparing or counting:
            async with self._host.db.snapshot() as tx:
                found = await look(tx)
                self._set_depth(await queue.depth(tx) - found.settled)
                if comparing and found.tasks:
                    buckets = await self._buckets(tx, self._depth == len(found.tasks), COMPARE_AGAIN)
        else:
            found = await look(self._host.db)
            if not found.more:
                self._depth = len(found.tasks) + max(found.left_out, len(skip) - len(window.settled))
        batch = self.plain(known, found.tasks, at)._replace(buckets=buckets)
        if not found.tasks:
            return found, batch
        batch = batch._replace(head_rev=found.head_rev)
        self.complete = rules.completes(alone=alone, passed=found.left_out, more=found.more)
        return found, self._claiming(batch, found.head_at, complete=self.complete and not found.quarantined)

    async def _all_committed(self) -> int:
        """Return a moment, in µs: every write that has an earlier time is committed by now.

        A write gets its time before its commit. Both are under the lock of the vault's head: so is this look at the
        clock. For a batch the time of the newest write says the same, without a lock.
        """
        async with self._host.db.transaction() as tx:
            await self._host.vault.lock(tx)
            return self._host.clock.now_us()

    def plain(self, known: State, tasks: Sequence[Task], at: int) -> Batch:
        """Return a request that claims nothing but its entries."""
        assert self._service.config.source_pop is not None
        return Batch(
            source_pop=self._service.config.source_pop,
            items=[item_of(task) for task in tasks],
            epoch=known.epoch,
            stream_id=known.stream_id,
            batch_id=f"{self._host.boot_id[:12]}-{next(self._numbers)}",
            depth=self._depth,
            sent_at=at,
            audit_head=self._audit_head,
        )

    def _claiming(self, batch: Batch, at: int, *, complete: bool) -> Batch:
        """Return a request with what the backup has said it has; complete: once it is applied, the backup has all."""
        batch = batch._replace(confirmed_rev=self._confirmed[0], confirmed_max_rev=self._confirmed[1])
        return batch._replace(complete_rev=batch.head_rev, as_of=at) if complete else batch

    async def _buckets(self, tx: Transaction, all_confirmed: bool, pause: float) -> bytes | None:
        """Return the hashes when the request leaves nothing unconfirmed: then both POPs must have the same.

        pause: seconds until it is tried again when this comes to nothing.
        """
        self._compare_at = self._host.clock.monotonic() + pause
        return await state.buckets(tx) if all_confirmed else None

    async def tokens_differ(self) -> bool:
        """Tell whether the backup is to be sent the tokens."""
        self._service.tokens_changed.clear()
        async with self._host.db.snapshot() as tx:
            digest = mirror.digest(await mirror.grants(self._service, tx))
        return digest not in (self.known_tokens, self.refused_tokens)

    async def _with_tokens(self, tx: Transaction, batch: Batch) -> Batch:
        self._service.tokens_changed.clear()
        tokens = await mirror.grants(self._service, tx)
        digest = mirror.digest(tokens)
        known = digest in (self.known_tokens, self.refused_tokens)
        return batch._replace(tokens_digest=digest, tokens=None if known else tokens)

    async def _look_at_audit(self, tx: Transaction) -> None:
        audit_id, digest = await self._host.audit.head(tx)
        self._audit_head = f"{audit_id}:{digest}"

    def _set_depth(self, depth: int) -> None:
        self._depth = depth
        self._counted_at = self._host.clock.monotonic()


def item_of(task: Task) -> Item:
    """Return an entry as it goes over the wire."""
    rev, entry_id, method, payload, environment_id, epoch, created_at, queued_at, _ = task
    return Item(
        entry_id, method, payload, queued_at // 1_000_000, epoch, rev, None, environment_id, created_at, queued_at
    )
