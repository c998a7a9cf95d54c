"""Group commit: writes that arrive together share one transaction and one fsync, yet each gets its own answer.

1. `submit` queues an operation and waits. A patient one waits for company: it goes with the next that is not, or alone
   when its time is over.
2. One task takes what has queued, at most `max_batch`, and opens one transaction.
3. Operations with the same `apply` go to it together, in their order; deferred rows are written set-wise.
4. One commit. Only then is anyone answered.

When a step fails for a reason that lies in the operations, all is rolled back and each operation runs alone, so that
only the bad one fails. When the database itself fails, everyone gets `StorageUnavailable` and nothing is tried
twice; the next batch starts afresh, so it recovers as soon as the database does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from loguru import logger

from clavitor_host.errors import StorageUnavailable
from clavitor_host.storage.database import Database
from clavitor_host.storage.errors import unavailable
from clavitor_host.storage.transaction import Transaction, await_callbacks, entered

Op = TypeVar("Op")
Result = TypeVar("Result")
Apply = Callable[[Transaction, Sequence[Op]], Awaitable[Sequence[Result | Exception]]]
"""Carries out operations in an open transaction: one result for each, in order; an exception is that one's answer."""

OVERLOADED = "overloaded"


class _Item(NamedTuple):
    apply: Apply[Any, Any]
    op: Any
    answer: asyncio.Future[Any]
    last: bool


class GroupCommitWriter:
    """The one writer of a process. `max_batch`: most operations in a commit; `max_queue`: most that may wait."""

    def __init__(self, db: Database, *, max_batch: int = 128, max_queue: int = 10_000) -> None:
        self._db = db
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._queue: deque[_Item] = deque()
        self._patient: list[_Item] = []
        self._patience: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._stopping = False
        self._callbacks: asyncio.Queue[Sequence[Awaitable[None]] | None] = asyncio.Queue()
        self._calling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take operations."""
        if self._running is None:
            self._stopping = False
            self._running = asyncio.create_task(self._run(), name="group-commit writer")
            self._calling = asyncio.create_task(self._call(), name="group-commit callbacks")

    async def stop(self) -> None:
        """Refuse new operations, commit every queued one, finish its callbacks, and return."""
        running, calling = self._running, self._calling
        if running is None or calling is None:
            return
        self._stopping = True
        self._hurry()
        await running
        self._callbacks.put_nowait(None)
        await calling
        self._running = self._calling = None

    @property
    def queued(self) -> int:
        """How many operations wait."""
        return len(self._queue) + len(self._patient)

    async def submit(self, apply: Apply[Op, Result], op: Op, *, last: bool = False, patience: float = 0.0) -> Result:
        """Have `apply` carry out `op`; return its result once it is committed, or raise its exception.

        last: after everything else of the transaction. Whoever locks a row that others lock at their end says so:
        in another order, two servers on one PostgreSQL would wait for each other.
        patience: seconds that it may wait for another operation whose commit it can share. One timer serves all: what
        comes while it runs waits no longer than what set it.
        A caller that is cancelled while its operation still waits takes it back. Raises `StorageUnavailable`:
        code `overloaded` when the queue is full, otherwise what the database says; `RuntimeError` inside an open
        transaction, which would wait for itself.
        """
        if self._running is None or self._stopping:
            raise unavailable("The server is stopping.")
        if self._db.current() is not None:
            raise RuntimeError("a transaction is open in this task: it would wait for itself")
        if self.queued >= self._max_queue:
            raise StorageUnavailable("Too many writes are waiting; try again.", code=OVERLOADED)
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        item = _Item(apply, op, answer, last)
        if patience > 0 and not self._queue:
            self._patient.append(item)
            self._patience = self._patience or asyncio.get_running_loop().call_later(patience, self._hurry)
        else:
            self._hurry()
            self._queue.append(item)
        return await answer

    def _hurry(self) -> None:
        """Have what was patient taken next, before whatever comes now."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._queue.extend(self._patient)
        self._patient = []
        self._wake.set()

    async def _run(self) -> None:
        while True:
            batch = self._take()
            if batch:
                await self._process(batch)
            elif self._stopping:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        while self._queue and len(batch) < self._max_batch:
            item = self._queue.popleft()
            if not item.answer.done():
                batch.append(item)
        return batch

    async def _process(self, batch: list[_Item]) -> None:
        try:
            results = await self._commit(batch)
        except StorageUnavailable as error:
            _answer(batch, [error] * len(batch))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's answer
            if len(batch) == 1:
                _answer(batch, [error])
            else:
                for item in batch:
                    await self._process([item])
        except BaseException:
            _answer(batch, [unavailable("The server is stopping.")] * len(batch))
            raise
        else:
            _answer(batch, results)

    async def _commit(self, batch: list[_Item]) -> Sequence[Any]:
        """Carry out `batch` in one transaction and return its results in order."""
        groups: dict[Apply[Any, Any], list[int]] = {}
        for position, item in enumerate(batch):
            groups.setdefault(item.apply, []).append(position)
        results: list[Any] = [None] * len(batch)
        tx = await self._db.begin(batch=True)
        try:
            with entered(tx):
                for apply, positions in sorted(groups.items(), key=lambda group: batch[group[1][0]].last):
                    outcome = await apply(tx, [batch[position].op for position in positions])
                    for position, result in zip(positions, outcome, strict=True):
                        results[position] = result
            await tx.commit()
        except BaseException as error:
            if not tx.closed:
                await tx.rollback()
            if len(batch) == 1 or isinstance(error, StorageUnavailable):  # otherwise each runs again, alone
                self._call_back(tx)
            raise
        self._call_back(tx)
        return results

    def _call_back(self, tx: Transaction) -> None:
        waiting = tx.run_callbacks()
        if waiting:
            self._callbacks.put_nowait(waiting)

    async def _call(self) -> None:
        """Await what callbacks left to await, batch after batch, so that a slow one holds up no commit."""
        while (waiting := await self._callbacks.get()) is not None:
            await await_callbacks(waiting)


def _answer(batch: Sequence[_Item], results: Sequence[Any]) -> None:
    for item, result in zip(batch, results, strict=True):
        if item.answer.done():
            if isinstance(result, Exception):
                logger.debug("A write whose caller is gone failed: {}", type(result).__name__)
        elif isinstance(result, Exception):
            item.answer.set_exception(result)
        else:
            item.answer.set_result(result)
