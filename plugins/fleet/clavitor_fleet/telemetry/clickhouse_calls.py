"""Blocking calls for the event loop, on a few threads of their own.

The threads are daemons: a ClickHouse that does not answer holds up neither the loop, nor other work that needs a
thread, nor the end of the process.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from clavitor_host.api import StorageUnavailable

_T = TypeVar("_T")


class _Call(NamedTuple):
    work: Callable[[], Any]
    future: asyncio.Future[Any]


class Calls:
    """At most `threads` calls at once, and `waiting` more that wait for their turn."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._name = name
        self._threads = threads
        self._limit = threads + waiting
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._started = 0
        self._pending = 0

    async def run(self, work: Callable[[], _T]) -> _T:
        """Return what `work` returns, or raise what it raises. Raises StorageUnavailable when too many wait already.

        A caller that is cancelled leaves; a call that has begun ends all the same.
        """
        if self._pending >= self._limit:
            raise StorageUnavailable("The telemetry store is busy.", code="telemetry_unavailable")
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._pending += 1
        self._calls.put(_Call(work, future))
        if self._started < min(self._threads, self._pending):
            self._started += 1
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        return await future

    def stop(self) -> None:
        """Let the threads end after the calls that wait."""
        for _ in range(self._started):
            self._calls.put(None)
        self._started = 0

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            result, error = None, None
            try:
                if not call.future.cancelled():
                    result = call.work()
            except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
                error = raised
            try:
                call.future.get_loop().call_soon_threadsafe(self._settle, call.future, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits
            del call, result, error

    def _settle(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._pending -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
