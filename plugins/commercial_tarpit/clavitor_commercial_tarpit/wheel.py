"""One wheel of time for all that is held: every second each of them gets a byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from math import ceil

from clavitor_commercial_tarpit.held import Hangups, Held
from clavitor_commercial_tarpit.seats import Seat

SLOTS = 20
"""Parts of a second. Each turns to its own share of the held, so that no step takes long."""

_STEP = 1 / SLOTS
_CLOCK = 0.001
"""Seconds that the loop's clock may be behind at a timer: it ticks in milliseconds."""


class Wheel:
    """Turns while anything is held, by one timer; stands still otherwise.

    Steps are counted from one moment and each is due at a multiple of 1/20 s after it, so nothing drifts: byte `n` of
    a body goes out at the first step `n` seconds after its beginning. A step that comes late makes up for what it
    missed. Sockets are written to directly; a stream waits for its slot's event, which all streams of the slot share.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._zero = loop.time()
        self._now = 0
        self._sockets: list[set[Held]] = [set() for _ in range(SLOTS)]
        self._streams = [0] * SLOTS
        self._events = [asyncio.Event() for _ in range(SLOTS)]
        self._timer: asyncio.TimerHandle | None = None
        self._hangups = Hangups(loop, self.let_go)
        self._stopped = False

    @property
    def idle(self) -> bool:
        """True when nothing turns."""
        return self._timer is None

    def hold(self, fd: int, body: bytes, seat: Seat) -> None:
        """Drip `body` into a socket, then close it. The descriptor is the wheel's from now on."""
        held = Held(fd, body, seat, self._first())
        if self._stopped:
            held.finish()
            return
        try:
            self._hangups.watch(held)
        except OSError:  # the kernel's limit of watches, or of memory
            held.finish()
            return
        self._sockets[held.first % SLOTS].add(held)
        self._start()

    def let_go(self, held: Held) -> None:
        """End one: its client is gone, or has the whole body."""
        self._sockets[held.first % SLOTS].discard(held)
        self._hangups.forget(held)
        held.close()
        if not any(self._sockets) and not any(self._streams) and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drip(self, body: bytes, seat: Seat) -> AsyncGenerator[bytes, None]:
        """Yield `body` byte by byte; all that is left at once when the server stops, or holds too many streams."""
        first, sent = self._first(), 0
        slot = first % SLOTS
        seat.begin()
        self._streams[slot] += 1
        try:
            stays = seat.become_stream()
            while sent < len(body):
                if stays and not self._stopped:
                    self._start()
                    await self._events[slot].wait()
                due = (self._now - first) // SLOTS + 1 if stays and not self._stopped else len(body)
                if due > sent:
                    yield body[sent:due]
                    sent = due
        finally:
            self._streams[slot] -= 1
            seat.release()

    def stop(self) -> None:
        """Give everyone the rest of their body at once, and hold nobody any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for slot in self._sockets:
            for held in list(slot):
                self._hangups.forget(held)
                held.finish()
            slot.clear()
        for event in self._events:
            event.set()
        self._hangups.close()

    def _first(self) -> int:
        """Return the step at which a body that begins now is due its first byte: not before a second has passed."""
        return ceil((self._loop.time() + 1 - self._zero) * SLOTS)

    def _start(self) -> None:
        """Turn from now on, if it stands still. A timer that is set already is early enough: see `_wind`."""
        if self._timer is None:
            self._now = self._step()
            self._wind()

    def _step(self) -> int:
        """Return the last step whose time has come."""
        return int((self._loop.time() + _CLOCK - self._zero) * SLOTS)

    def _wind(self) -> None:
        """Set the timer for the next slot with anybody in it. That is never more than a second away."""
        for step in range(self._now + 1, self._now + SLOTS + 1):
            if self._sockets[step % SLOTS] or self._streams[step % SLOTS]:
                self._timer = self._loop.call_at(self._zero + step * _STEP, self._turn)
                return

    def _turn(self) -> None:
        self._timer = None
        due = self._step()
        for step in range(max(self._now + 1, due - SLOTS + 1), due + 1):  # after a long pause each slot once
            self._now = step
            self._drip_into(step)
            event = self._events[step % SLOTS]
            event.set()
            event.clear()
        self._wind()

    def _drip_into(self, step: int) -> None:
        for held in list(self._sockets[step % SLOTS]):
            due = (step - held.first) // SLOTS + 1
            if due > held.sent and not held.write(due):
                self.let_go(held)
