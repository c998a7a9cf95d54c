"""The batches that are on their way: at most a few, and never two with one entry, so its order holds.

A batch is *under way* until it is answered, and still has its entries until that is written down here. The next one
need not wait for the writing: what is *settled* the backup has, whatever becomes of this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from clavitor_commercial_replication.models import Task
from clavitor_commercial_replication.queue import Slice

IN_FLIGHT = 4
"""Batches that are under way at once, at most; as many again may be about to be written down."""


class Window:
    """`busy`: the entries of all batches. `settled`: of these, what the backup has, id and rev. `cursor`: the rev up to
    which the queue has been looked through; what was passed over is looked at again. `deep`: the queue had more than
    the last batch took. `seen`: all of the queue was looked at, so without news it has nothing to send. wake: set when
    a batch is answered, and when one ends."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._running: dict[asyncio.Task[None], Sequence[Task]] = {}
        self._unanswered = 0
        self._passed: int | None = None
        self.busy: set[str] = set()
        self.settled: dict[str, int] = {}
        self.cursor = 0
        self.deep = False
        self.seen = False

    @property
    def empty(self) -> bool:
        """Whether there is no batch."""
        return not self._running

    @property
    def answered(self) -> bool:
        """Whether no batch is under way: the backup has all that was sent."""
        return not self._unanswered

    @property
    def has_room(self) -> bool:
        """Whether another batch may leave: any when none is under way, several when the queue is deep."""
        return len(self._running) < 2 * IN_FLIGHT and (self.answered or (self.deep and self._unanswered < IN_FLIGHT))

    def looked(self, found: Slice) -> None:
        """Take note of what was seen of the queue."""
        self.deep = found.more
        self.seen = not found.more
        if found.tasks:
            self.cursor = found.tasks[-1].rev
        if found.passed is not None:
            self._passed = min(found.passed, self._passed or found.passed)

    def start(self, work: Coroutine[Any, Any, None], tasks: Sequence[Task]) -> None:
        """Have a batch with these entries under way until `work` ends, or `settle` says so."""
        self.busy.update(task.entry_id for task in tasks)
        running = asyncio.get_running_loop().create_task(work, name="replication batch")
        self._running[running] = tasks
        self._unanswered += 1
        running.add_done_callback(lambda _: self._wake.set())

    def settle(self, tasks: Sequence[Task]) -> None:
        """Take note that the backup has all of a batch."""
        self.settled.update((task.entry_id, task.rev) for task in tasks)
        self._answer_one()
        self._wake.set()

    def collect(self) -> None:
        """Let go of the batches that have ended. Raises what one of them raised."""
        ended = [running for running in self._running if running.done()]
        for running in ended:
            self._let_go(self._running.pop(running))
        if ended and self._passed is not None:
            self.rewind(self._passed)
            self._passed = None
        errors = [error for running in ended if (error := running.exception()) is not None]
        if errors:
            raise errors[0]

    def _let_go(self, tasks: Sequence[Task]) -> None:
        if tasks[0].entry_id not in self.settled:
            self._answer_one()
        for task in tasks:
            self.busy.discard(task.entry_id)
            self.settled.pop(task.entry_id, None)

    def _answer_one(self) -> None:
        self._unanswered -= 1
        if self.answered:
            self.cursor = 0  # from there the queue shows everything that the backup lacks

    def rewind(self, rev: int) -> None:
        """Have the queue looked through from this rev again."""
        self.cursor = min(self.cursor, rev - 1)
        self.seen = False

    async def abandon(self) -> None:
        """Cancel what is on its way and wait for its end. What the backup took nevertheless, it will know again; what
        it is known to have is written down."""
        for running, tasks in self._running.items():
            if tasks[0].entry_id not in self.settled:
                running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
