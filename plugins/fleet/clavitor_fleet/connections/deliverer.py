"""Sends what waits for outbound connections: a lane a connection, so that none waits for another's receiver.

A lane sends in order, one message at a time, and ends when nothing waits or an attempt has failed; how long the
connection then rests is kept in the database, for whichever process sends next.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from clavitor_fleet.connections import attempts
from clavitor_fleet.connections.models import Message
from clavitor_fleet.connections.outbox import WAITING
from clavitor_fleet.connections.sending import Outcome, Sender
from clavitor_host.api import StorageUnavailable, log

if TYPE_CHECKING:
    from clavitor_fleet.config import FleetConfig
    from clavitor_fleet.metrics import FleetMetrics
    from clavitor_host.api import Host

LANES: Final = 32
"""Connections that are sent to at once."""
BACKOFF: Final = (2.0, 900.0)
"""First and longest pause after a failed attempt, in seconds, before jitter; a delivery starts anew."""
LONGEST_NAP: Final = 60.0
"""Seconds after which the wall clock is looked at again while something waits for its time."""
DATABASE_PAUSE: Final = 1.0
"""Seconds until the database is tried again."""
LAST_CHANCE: Final = 0.5
"""Seconds that noting the last delivery may take at the end."""


class Deliverer:
    """One per app. `work` runs in one process of a deployment; `send_now` in any."""

    def __init__(
        self,
        host: Host,
        config: FleetConfig,
        metrics: FleetMetrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """jitter: returns 0…1."""
        self._host = host
        self._allow = config.outbound_allow
        self._metrics = metrics
        self._jitter = jitter
        self._sender: asyncio.Future[Sender] | None = None
        self._wake = asyncio.Event()
        self._lanes: set[str] = set()
        self._troubled = False

    async def send_now(self, url: str, secret: str, message: Message) -> Outcome:
        """Send a message once, past what waits."""
        return await (await self._open()).post(url, secret, message)

    async def stop(self) -> None:
        """End the connections."""
        if self._sender is not None and self._sender.done() and not _has_failed(self._sender):
            await self._sender.result().close()

    def wake(self) -> None:
        """Look again at what waits."""
        self._wake.set()

    async def work(self) -> None:
        """Send what waits until cancelled. One process of a deployment does."""
        unsubscribe = self._host.signals.subscribe(WAITING, lambda _: self.wake())
        self._lanes.clear()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    await self._idle(await self._round(group))
        finally:
            unsubscribe()

    async def _open(self) -> Sender:
        if self._sender is None or _has_failed(self._sender):
            self._sender = asyncio.ensure_future(Sender.open(self._host, self._allow))
        return await asyncio.shield(self._sender)

    async def _round(self, group: asyncio.TaskGroup) -> float | None:
        """Start a lane for every connection whose time has come. Return the seconds to pause for, None without end."""
        try:
            found = await attempts.ready(self._host)
        except StorageUnavailable as error:
            self._trouble(error)
            return DATABASE_PAUSE
        self._troubled = False
        now = self._host.clock.now_us()
        later: list[int] = []
        for one in found:
            if one.connection_id in self._lanes:
                continue
            if one.next_attempt_at is not None and one.next_attempt_at > now:
                later.append(one.next_attempt_at)
            elif len(self._lanes) < LANES:
                self._lanes.add(one.connection_id)
                group.create_task(self._lane(one.connection_id), name=f"deliveries to {one.connection_id}")
        return min((min(later) - now) / 1_000_000, LONGEST_NAP) if later else None

    async def _idle(self, pause: float | None) -> None:
        """Return when there is something new, a lane has ended, or `pause` seconds have passed."""
        waiting: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._wake.wait())}
        if pause is not None:
            waiting.add(asyncio.ensure_future(self._host.clock.sleep(pause)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    async def _lane(self, connection_id: str) -> None:
        try:
            while await self._send_next(connection_id):
                pass
        except StorageUnavailable as error:
            self._trouble(error)
            await self._host.clock.sleep(DATABASE_PAUSE)
        except Exception as error:  # noqa: BLE001 - one connection's trouble is not the others'
            log.exception("Sending over an outbound connection failed", error, outbound_connection_id=connection_id)
            await self._host.clock.sleep(LONGEST_NAP)
        finally:
            self._lanes.discard(connection_id)
            self.wake()

    async def _send_next(self, connection_id: str) -> bool:
        """Send the oldest that waits for a connection; return whether to go on."""
        sent = await attempts.next_of(self._host, connection_id)
        if sent is None:
            return False
        outcome = await (await self._open()).post(sent.url, sent.secret, sent.message)
        if not outcome.delivered:
            await self._failed(sent, outcome)
            return False
        self._metrics.deliveries.labels("delivered").inc()
        settling = asyncio.ensure_future(self._settle(sent, outcome))
        try:
            await asyncio.shield(settling)
        except asyncio.CancelledError:
            await asyncio.wait({settling}, timeout=LAST_CHANCE)
            settling.cancel()
            raise
        return True

    async def _settle(self, sent: attempts.Next, outcome: Outcome) -> None:
        """Keep that a message was delivered. Until the database lets us, nothing else is sent over the connection: so
        while this process lives, nothing is delivered twice."""
        while True:
            try:
                await attempts.settle(self._host, sent, outcome)
            except StorageUnavailable as error:
                self._trouble(error)
                await self._host.clock.sleep(DATABASE_PAUSE)
            else:
                break
        if sent.failures:
            log.info("An outbound connection delivers again", name=sent.name, failed_attempts=sent.failures)

    async def _failed(self, sent: attempts.Next, outcome: Outcome) -> None:
        first, longest = BACKOFF
        pause = min(first * 2.0 ** min(sent.failures, 30), longest) * (0.5 + self._jitter() / 2)
        given_up = await attempts.failed(self._host, sent, outcome, max(pause, outcome.retry_after))
        self._metrics.deliveries.labels("retried").inc()
        self._metrics.deliveries.labels("given_up").inc(given_up)
        if not sent.failures:
            log.warning(
                "An outbound connection does not deliver: what waits is kept and tried again",
                name=sent.name,
                reason=outcome.reason,
            )

    def _trouble(self, error: StorageUnavailable) -> None:
        if not self._troubled:
            self._troubled = True
            log.warning("What waits for outbound connections cannot be read or kept for now", reason=error.detail)


def _has_failed(opening: asyncio.Future[Sender]) -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)
