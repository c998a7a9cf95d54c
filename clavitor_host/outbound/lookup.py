"""The addresses of a name."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Returns every address of a host name as text, in the order to try them. Raises OSError or UnicodeError."""

AT_ONCE = 16
"""Lookups that begin and have not taken long yet, twice: of names that had an address the last time, and of others."""
LATE = 1.0
"""Seconds after which a lookup takes long: another may begin in its place."""
MOST_LATE = 48
"""Lookups that take long together, at most; beside those of names that had an address the last time: each takes long
once, and is then one of the others."""
REMEMBERED = 1000
"""Names that are known to have had an address."""


@dataclass
class _Running:
    """A lookup. `waiting`: how many want to know. `begun`: it has a place, and goes on whether anybody waits or not.
    `late`: it has given its place to another."""

    waiting: int = 0
    begun: bool = False
    late: bool = False
    task: asyncio.Task[Sequence[str]] = field(init=False)


class NameLookup:
    """Asks the system's resolver: once for all who want to know the same name at the same time.

    In threads of its own, which the end of the program does not wait for: names that users configure may take the
    resolver many seconds, and the loop's own threads are for others. However many names take it that long, those that
    it answers go on: they have places of their own.
    """

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._good: dict[str, None] = {}
        self._good_places = asyncio.Semaphore(AT_ONCE)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._late = 0

    async def __call__(self, name: str) -> Sequence[str]:
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = _Running()
            running.task = asyncio.create_task(self._find(name, running), name="lookup", context=Context())
            running.task.add_done_callback(partial(self._ended, name, running))
        running.waiting += 1
        try:
            await asyncio.wait({running.task})
            return running.task.result()
        finally:
            running.waiting -= 1
            if not (running.waiting or running.begun):
                running.task.cancel()
                self._ended(name, running)

    async def _find(self, name: str, running: _Running) -> Sequence[str]:
        places = self._good_places if name in self._good else self._places
        await places.acquire()
        running.begun = True
        loop = asyncio.get_running_loop()
        timer = loop.call_later(LATE, self._takes_long, name, running, places)
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def tell(addresses: Sequence[str], error: Exception | None) -> None:
            timer.cancel()
            self._remember(name, good=bool(addresses))
            if running.late:
                self._late -= 1
            else:
                places.release()
            if found.done():
                return  # the loop ends
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def look_up() -> None:
            addresses: Sequence[str] = ()
            failure: Exception | None = None
            try:
                addresses = _addresses(name)
            except (OSError, UnicodeError) as error:
                failure = error
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(tell, addresses, failure)

        threading.Thread(target=look_up, name="lookup", daemon=True).start()
        return await found

    def _takes_long(self, name: str, running: _Running, places: asyncio.Semaphore) -> None:
        self._remember(name, good=False)
        if self._late < MOST_LATE or places is self._good_places:
            self._late += 1
            running.late = True
            places.release()

    def _remember(self, name: str, *, good: bool) -> None:
        self._good.pop(name, None)
        if good:
            self._good[name] = None
            if len(self._good) > REMEMBERED:
                del self._good[next(iter(self._good))]

    def _ended(self, name: str, running: _Running, task: asyncio.Task[Sequence[str]] | None = None) -> None:
        if self._running.get(name) is running:
            del self._running[name]
        if task is not None and not task.cancelled():
            task.exception()  # nobody may wait for it any more


def _addresses(name: str) -> Sequence[str]:
    found = [entry[4] for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    return list(dict.fromkeys(_with_zone(*sockaddr) for sockaddr in found))


def _with_zone(address: str | int, port: str | int, flow: int = 0, zone: int = 0) -> str:
    return f"{address}%{zone}" if zone and "%" not in str(address) else str(address)
