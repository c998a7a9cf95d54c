"""One event stream of an agent: what waits to be sent, and how far the agent has been told (Server-Sent Events).

    id: 4711.12            the position: rev of the last entry change, and `seq` of the last command, told so far
    event: entry
    data: {"entry_id":…}

The position in `Last-Event-ID` begins the next stream exactly there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import NamedTuple

MAX_WAITING = 256 * 1024
"""Bytes that wait for a client that does not read; beyond it the stream ends, and the client comes back for them."""
COMMANDS_WAITING = 64 * 1024
"""Bytes beyond which further commands wait in the database."""
RETRY = 2000
"""Milliseconds after which a client that was cut off comes back."""

_POSITION = re.compile(r"(\d{1,18})\.(\d{1,18})", re.ASCII)


class Position(NamedTuple):
    """How far an agent has been told: the `rev` of an entry change, the `seq` of a command."""

    rev: int
    seq: int

    def __str__(self) -> str:
        return f"{self.rev}.{self.seq}"


def parse_position(text: str) -> Position | None:
    """Return what `Last-Event-ID` says, None for what is no position."""
    match = _POSITION.fullmatch(text)
    return None if match is None else Position(int(match[1]), int(match[2]))


def event(name: str, data: bytes) -> bytes:
    """Return an event without its id. data: one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class EventStream:
    """The hub puts events in, the connection takes bytes out. `claim`: the id by which the database knows the newest
    stream of the agent. `resumes`: what `Last-Event-ID` said, "" for nothing."""

    __slots__ = (
        "_bytes",
        "_drained",
        "_queue",
        "_waiter",
        "agent_id",
        "claim",
        "ended",
        "environment_id",
        "last_command",
        "resumes",
        "rev",
        "seq",
        "token_id",
        "wakes",
    )

    def __init__(self, agent_id: str, environment_id: str, token_id: str | None, claim: str, resumes: str) -> None:
        self.agent_id = agent_id
        self.environment_id = environment_id
        self.token_id = token_id
        self.claim = claim
        self.resumes = resumes
        self.rev = 0
        self.seq = 0
        self.last_command = 0
        """The `seq` of the last command that there is."""
        self.ended = False
        self.wakes = 0
        self._queue: list[bytes] = []
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drained: Callable[[EventStream], None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._queue

    @property
    def takes_commands(self) -> bool:
        """Whether there is room for a command; otherwise the hub is asked again once there is."""
        return not self.ended and self._bytes < COMMANDS_WAITING

    def when_drained(self, callback: Callable[[EventStream], None]) -> None:
        """Have `callback` called once, when what waits has been handed to the connection."""
        self._drained = callback

    def begin(self, *, resync: str | None) -> None:
        """Send what a stream begins with. resync: why the client must read everything again, None when it need not."""
        self._put(b"retry: %d\nid: %d.%d\n\n" % (RETRY, self.rev, self.seq))
        if resync is not None:
            self._put(event("resync", b'{"reason":"%s"}' % resync.encode()))

    def entry(self, rev: int, change: bytes) -> None:
        """Send a change of an entry, unless the agent has been told. change: of `event`."""
        if rev > self.rev:
            self.rev = rev
            self._put(self._with_id(change))

    def command(self, seq: int, command: bytes) -> None:
        """Send a command, unless the agent has been told. command: of `event`."""
        if seq > self.seq:
            self.seq = seq
            self._put(self._with_id(command))

    def keep_alive(self, rev: int) -> None:
        """Send a comment, so that nobody in between takes the connection for dead, and the position: an agent that
        heard nothing for long begins no further back than one that heard much. rev: to where the agent has been told
        everything; 0 for where it was."""
        if not self._queue and not self.ended:
            self.rev = max(self.rev, rev)
            self._put(self._with_id(b":\n\n"))

    def wake(self) -> bool:
        """Have the connection send what waits; return whether it slept."""
        if self._waiter is None or self._waiter.done():
            return False
        self._waiter.set_result(None)
        return True

    def end(self) -> None:
        """End the stream; what waits is dropped, since the client resumes behind what it has received."""
        self.ended = True
        self._queue.clear()
        self._bytes = 0
        self.wake()

    async def next(self) -> bytes | None:
        """Return what waits, None in the end."""
        while not self._queue:
            if self.ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
        taken = b"".join(self._queue)
        self._queue.clear()
        self._bytes = 0
        if self._drained is not None:
            drained, self._drained = self._drained, None
            drained(self)
        return taken

    def _with_id(self, data: bytes) -> bytes:
        return b"id: %d.%d\n%s" % (self.rev, self.seq, data)

    def _put(self, data: bytes) -> None:
        if self.ended:
            return
        self._queue.append(data)
        self._bytes += len(data)
        if self._bytes > MAX_WAITING:
            self.end()
