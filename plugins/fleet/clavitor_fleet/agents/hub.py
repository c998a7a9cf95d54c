"""Wakes the event streams of this process's agents when there is something for them.

One task and few queries, however many streams there are:

1. A commit sends a signal: an environment's entries have changed, or an agent has. Every process hears it.
2. Where it concerns a stream that is served here, the hub takes a round; what comes meanwhile waits for the next.
3. A round reads what has changed since the last one in all environments that are listened to, by one query, sees whose
   stream may go on (token, seat, newest stream of its agent), and puts events into the streams concerned.
4. Streams that begin are caught up in a round as well, together; so nothing falls between catching up and listening.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from clavitor_fleet.agents.catch_up import begin
from clavitor_fleet.agents.changes import ENTRIES
from clavitor_fleet.agents.checks import still_good
from clavitor_fleet.agents.events import entry_event
from clavitor_fleet.agents.liveness import CHANGED
from clavitor_fleet.agents.telling import tell_commands
from clavitor_host.api import StorageUnavailable, log

if TYPE_CHECKING:
    from clavitor_fleet.agents.stream import EventStream
    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_host.api import Host

KEEP_ALIVE = 15.0
"""Seconds between two comments on a silent stream, and between two looks whether streams may go on."""
PAUSE = 1.0
"""Seconds before a round that failed is tried again."""


class EventHub:
    """One per process."""

    def __init__(self, host: Host, metrics: FleetMetrics) -> None:
        self._host = host
        self._metrics = metrics
        self.keep_alive = KEEP_ALIVE
        self._streams: set[EventStream] = set()
        self._by_environment: dict[str, set[EventStream]] = {}
        self._by_agent: dict[str, set[EventStream]] = {}
        self._joining: set[EventStream] = set()
        self._to_check: set[EventStream] = set()
        self._rev = 0
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: list[Callable[[], None]] = []

    @property
    def streams(self) -> frozenset[EventStream]:
        """The streams that are served now."""
        return frozenset(self._streams)

    async def start(self) -> None:
        """Begin to listen."""
        signals = self._host.signals
        self._unsubscribe = [
            signals.subscribe(ENTRIES, self._hear_entries),
            signals.subscribe(CHANGED, self._hear_agent),
        ]
        self._tasks = [
            asyncio.create_task(self._run(), name="fleet events"),
            asyncio.create_task(self._end_at_shutdown(), name="fleet events end"),
        ]

    async def stop(self) -> None:
        """End every stream, and stop."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end(list(self._streams))

    async def serve(self, stream: EventStream) -> AsyncIterator[bytes]:
        """Yield what a stream sends, to its end. Whoever stops iterating leaves."""
        self._join(stream)
        try:
            while (data := await stream.next()) is not None:
                yield data
        finally:
            self._leave(stream)

    # --- who is there

    def _join(self, stream: EventStream) -> None:
        if self._host.shutdown.is_set():
            stream.end()
            return
        self._streams.add(stream)
        self._by_agent.setdefault(stream.agent_id, set()).add(stream)
        self._joining.add(stream)
        self._metrics.event_streams.set(len(self._streams))
        self._wake.set()

    def _leave(self, stream: EventStream) -> None:
        stream.ended = True
        self._streams.discard(stream)
        self._joining.discard(stream)
        self._to_check.discard(stream)
        for index, key in ((self._by_agent, stream.agent_id), (self._by_environment, stream.environment_id)):
            found = index.get(key, set())
            found.discard(stream)
            if not found:
                index.pop(key, None)
        self._metrics.event_streams.set(len(self._streams))

    def _end(self, streams: Iterable[EventStream]) -> None:
        for stream in streams:
            stream.end()
            self._leave(stream)

    async def _end_at_shutdown(self) -> None:
        await self._host.shutdown.wait()
        self._end(list(self._streams))

    # --- what is heard

    def _hear_entries(self, environment_id: str | None) -> None:
        if self._by_environment if environment_id is None else environment_id in self._by_environment:
            self._wake.set()

    def _hear_agent(self, agent_id: str | None) -> None:
        concerned = self._by_agent.get(agent_id, set()) if agent_id else self._streams
        if concerned:
            self._to_check |= concerned
            self._wake.set()

    def _hear_drained(self, stream: EventStream) -> None:
        self._to_check.add(stream)
        self._wake.set()

    # --- rounds

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        ticked = loop.time()
        failing = False
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(ticked + self.keep_alive):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= ticked + self.keep_alive:
                ticked = loop.time()
                self._to_check |= self._streams
                self._comment()
            if not self._streams:
                continue
            try:
                await self._round()
                failing = False
            except Exception as error:  # noqa: BLE001 - streams outlive whatever went wrong
                self._to_check |= self._streams
                self._wake.set()
                if not failing:
                    _report(error)
                failing = True
                await self._host.clock.sleep(PAUSE)

    def _comment(self) -> None:
        for stream in self._streams:
            serves = stream in self._by_environment.get(stream.environment_id, ())
            stream.keep_alive(self._rev if serves else 0)
            stream.wake()

    async def _round(self) -> None:
        joining, checking = set(self._joining), self._to_check
        self._to_check = set()
        await self._tell_changes()
        good = await self._good(joining | checking)
        await begin(self._host, [stream for stream in joining if stream in good], self._rev)
        for stream in joining & good & self._streams:
            self._by_environment.setdefault(stream.environment_id, set()).add(stream)
        self._joining -= joining
        self._send(good)
        behind = {stream for stream in good if stream.seq < stream.last_command}
        await tell_commands(self._host, behind, send=self._send, when_drained=self._hear_drained)

    async def _tell_changes(self) -> None:
        """Put the changes since the last round into the streams of their environments."""
        head = await self._host.vault.head_rev()
        while self._by_environment and self._rev < head:
            page = await self._host.vault.changes(self._rev, self._by_environment)
            concerned = {
                stream
                for change in page.changes
                for stream in self._by_environment.get(change.environment_id, ())
                if stream.rev < change.rev
            }
            good = await self._good(concerned)
            for change in page.changes:
                data = entry_event(change)
                for stream in self._by_environment.get(change.environment_id, ()):
                    if stream in good:
                        stream.entry(change.rev, data)
            self._send(good)
            self._rev = page.next_since
            if not page.more:
                break
        self._rev = max(self._rev, head)

    async def _good(self, streams: set[EventStream]) -> set[EventStream]:
        """Return which of the streams may go on; the others end."""
        good = await still_good(self._host, streams)
        self._end(streams - good)
        return good & self._streams

    def _send(self, streams: Iterable[EventStream]) -> None:
        """Wake streams that have something to send; those that were not read end."""
        for stream in streams:
            if stream.ended:
                self._leave(stream)
            elif not stream.idle and stream.wake():
                stream.wakes += 1
                self._metrics.event_wakes.inc()


def _report(error: Exception) -> None:
    if isinstance(error, StorageUnavailable):
        log.warning("Event streams wait for the database", reason=error.detail)
    else:
        log.exception("Event streams could not be served", error)
