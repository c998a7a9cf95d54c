"""The batches that are on their way: at most a few, and never two with one entry, so its order holds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from clavitor_commercial_replication.models import Task
from clavitor_commercial_replication.queue import Slice

IN_FLIGHT = 4
"""Batches that are on their way at once, at most."""


class Window:
    """`busy`: the entries on their way. `cursor`: the rev up to which the queue has been looked through; what was
    passed over is looked at again. `deep`: the queue had more than the last batch took. wake: set when one ends."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._running: dict[asyncio.Task[None], list[str]] = {}
        self._passed: int | None = None
        self.busy: set[str] = set()
        self.cursor = 0
        self.deep = False

    @property
    def empty(self) -> bool:
        """Whether nothing is on its way."""
        return not self._running

    @property
    def has_room(self) -> bool:
        """Whether another batch may leave: any when none is on its way, several when the queue is deep."""
        return not self._running or (self.deep and len(self._running) < IN_FLIGHT)

    def looked(self, found: Slice) -> None:
        """Take note of what was seen of the queue."""
        self.deep = found.more
        if found.tasks:
            self.cursor = found.tasks[-1].rev
        if found.passed is not None:
            self._passed = min(found.passed, self._passed or found.passed)

    def start(self, work: Coroutine[Any, Any, None], tasks: Sequence[Task]) -> None:
        """Have a batch with these entries on its way until `work` ends."""
        ids = [task.entry_id for task in tasks]
        self.busy.update(ids)
        running = asyncio.get_running_loop().create_task(work, name="replication batch")
        self._running[running] = ids
        running.add_done_callback(lambda _: self._wake.set())

    def collect(self) -> None:
        """Let go of the batches that have ended. Raises what one of them raised."""
        ended = [running for running in self._running if running.done()]
        for running in ended:
            self.busy.difference_update(self._running.pop(running))
        if ended and self._passed is not None:
            self.rewind(self._passed)
            self._passed = None
        if not self._running:
            self.cursor = 0
        errors = [error for running in ended if (error := running.exception()) is not None]
        if errors:
            raise errors[0]

    def rewind(self, rev: int) -> None:
        """Have the queue looked through from this rev again."""
        self.cursor = min(self.cursor, rev - 1)

    async def abandon(self) -> None:
        """Cancel what is on its way and wait for its end. What the backup took nevertheless, it will know again."""
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
