"""Making the requests to the backup: a batch of the queue, or a heartbeat, and what they say beside the entries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count
from typing import TYPE_CHECKING

from clavitor_commercial_replication import mirror, queue, state
from clavitor_commercial_replication.models import Batch, Item, State, Task
from clavitor_commercial_replication.queue import Slice
from clavitor_host.api import Transaction

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

COUNT_INTERVAL = 1.0
"""Seconds for which the depth of a long queue is not counted again."""


class Batches:
    """`known_tokens`: digest of the tokens that the backup has, as it last said. `complete`: the last request said how
    far the backup has everything, so no heartbeat needs to."""

    def __init__(self, service: Replication) -> None:
        self._service = service
        self._host = service.host
        self._numbers = count(1)
        self._depth = 0
        self._counted_at = float("-inf")
        self._compared_at = float("-inf")
        self.known_tokens: str | None = None
        self.complete = False

    @property
    def compare_in(self) -> float:
        """Seconds until the hashes should be compared; negative when that is overdue."""
        return self._compared_at + self._service.config.compare_interval - self._host.clock.monotonic()

    async def heartbeat(self) -> Batch:
        """Return a request without entries: how this POP is, its tokens when they have changed, and its hashes when
        it is time and nothing is dirty. Call it while nothing is on its way."""
        async with self._host.db.snapshot() as tx:
            now = self._host.clock.now_us()
            known = await state.required(tx)
            found = await queue.look(tx, limit=1)
            self._set_depth(await queue.depth(tx))
            self.complete = not found.tasks
            batch = self.plain(known, (), now)._replace(
                head_rev=known.head_rev,
                complete_rev=None if found.tasks else known.head_rev,
                as_of=None if found.tasks else now,
                buckets=await self._buckets(tx, self._depth == 0) if self.compare_in <= 0 else None,
            )
            return await self._with_tokens(tx, batch)

    async def next(
        self, known: State, *, after_rev: int, max_bytes: int, skip: Collection[str], alone: bool
    ) -> tuple[Slice, Batch]:
        """Return what to send next, and the request for it. alone: nothing else is on its way, so it can say how far
        the backup then has everything."""
        at = self._host.clock.now_us()
        if alone and self.compare_in <= 0:
            async with self._host.db.snapshot() as tx:
                found = await queue.look(tx, after_rev, max_bytes=max_bytes, skip=skip)
                self._set_depth(await queue.depth(tx))
                buckets = await self._buckets(tx, self._depth == len(found.tasks)) if found.tasks else None
        else:
            found = await queue.look(self._host.db, after_rev, max_bytes=max_bytes, skip=skip)
            buckets = None
        batch = self.plain(known, found.tasks, at)._replace(buckets=buckets)
        if not found.tasks:
            return found, batch
        batch = batch._replace(head_rev=found.head_rev, depth=await self._depth_of(found, len(skip)))
        self.complete = alone and found.passed is None and not found.more
        # the lowest rev that is left behind tells nothing: an earlier write of its entry may be missing as well
        return found, batch._replace(complete_rev=batch.head_rev, as_of=at) if self.complete else batch

    def plain(self, known: State, tasks: Sequence[Task], at: int) -> Batch:
        """Return a request that claims nothing but its entries."""
        assert self._service.config.source_pop is not None
        return Batch(
            source_pop=self._service.config.source_pop,
            items=[_item(task) for task in tasks],
            epoch=known.epoch,
            stream_id=known.stream_id,
            batch_id=f"{self._host.boot_id[:12]}-{next(self._numbers)}",
            depth=self._depth,
            sent_at=at,
        )

    async def _buckets(self, tx: Transaction, all_confirmed: bool) -> bytes | None:
        """Return the hashes when the request leaves nothing unconfirmed: then both POPs must have the same."""
        self._compared_at = self._host.clock.monotonic()
        return await state.buckets(tx) if all_confirmed else None

    async def _with_tokens(self, tx: Transaction, batch: Batch) -> Batch:
        self._service.tokens_changed.clear()
        tokens = await mirror.grants(self._service, tx)
        digest = mirror.digest(tokens)
        return batch._replace(tokens_digest=digest, tokens=None if digest == self.known_tokens else tokens)

    async def _depth_of(self, found: Slice, skipped: int) -> int:
        """Return about how many entries wait: a long queue is not counted for every batch. skipped: those on their way
        and those that rest."""
        now = self._host.clock.monotonic()
        if now - self._counted_at > COUNT_INTERVAL:
            self._set_depth(await queue.depth(self._host.db))
        elif not found.more:
            self._depth = len(found.tasks) + skipped
        return self._depth

    def _set_depth(self, depth: int) -> None:
        self._depth = depth
        self._counted_at = self._host.clock.monotonic()


def _item(task: Task) -> Item:
    rev, entry_id, method, payload, environment_id, epoch, created_at, queued_at, _ = task
    return Item(
        entry_id, method, payload, queued_at // 1_000_000, epoch, rev, None, environment_id, created_at, queued_at
    )
