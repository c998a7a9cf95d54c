"""A caller's socket, and hearing at once when the caller hangs up."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from contextlib import suppress

from clavitor_commercial_tarpit.seats import Seat

GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
"""What is listened for. Not EPOLLIN: a client that keeps sending wakes nobody, and waits when its window is full."""


class Held:
    """A socket and how much of its body has gone out. `first`: the step of the wheel at which the first byte is due."""

    __slots__ = ("_body", "fd", "first", "seat", "sent")

    def __init__(self, fd: int, body: bytes, seat: Seat, first: int) -> None:
        self._body = body
        self.fd = fd
        self.seat = seat
        self.first = first
        self.sent = 0

    def write(self, due: int) -> bool:
        """Bring what has gone out to `due` bytes. False: that was all, or the client does not take it any more.

        Thirty bytes fit into any socket's buffer, so one that takes none is as good as gone.
        """
        with suppress(OSError):
            self.sent += os.write(self.fd, self._body[self.sent : due])
            return self.sent < len(self._body)
        return False

    def finish(self) -> None:
        """Send the rest at once, and close."""
        self.write(len(self._body))
        self.close()

    def close(self) -> None:
        """Close the socket and free the seat."""
        with suppress(OSError):  # what lies there unread would make the close a reset, and cost the client the answer
            os.read(self.fd, 65536)
        os.close(self.fd)
        self.seat.release()


class Hangups:
    """Watches held sockets through one descriptor of its own, which the event loop knows; no more than that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, gone: Callable[[Held], None]) -> None:
        self._loop = loop
        self._gone = gone
        self._epoll = select.epoll()
        self._held: dict[int, Held] = {}
        loop.add_reader(self._epoll.fileno(), self._hear)

    def watch(self, held: Held) -> None:
        """Call `gone` when this one's client hangs up, also when it has already. Raises OSError."""
        self._epoll.register(held.fd, GONE)
        self._held[held.fd] = held

    def forget(self, held: Held) -> None:
        """Watch it no more; to be called before it is closed."""
        if self._held.pop(held.fd, None) is not None:
            self._epoll.unregister(held.fd)

    def close(self) -> None:
        """Watch nothing any more."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._held.clear()

    def _hear(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if (held := self._held.get(fd)) is not None:
                self._gone(held)
