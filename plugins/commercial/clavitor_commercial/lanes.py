"""The work of the one process that sends: a lane for alerts and one for reports, each in order, and the reports' clock.

A lane never waits for the other: a receiver that takes alerts and no reports gets its alerts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from clavitor_commercial.delivery import Outcome, Sender
from clavitor_commercial.items import KINDS, Item, Kind
from clavitor_commercial.report import make_report
from clavitor_host.api import Clock, log

if TYPE_CHECKING:
    from clavitor_commercial.config import CommercialConfig
    from clavitor_commercial.metrics import TelemetryMetrics
    from clavitor_commercial.spool import Spool
    from clavitor_host.api import Host

POLL = 5.0
"""Seconds between looks for items that other processes have put; one's own are sent at once."""
BACKOFF = (1.0, 300.0)
"""First and longest pause after a failed attempt, in seconds, before jitter; a success starts anew."""
REPORT_RETRY = 10.0
"""Seconds until a report that could not be made is tried again."""
REMIND = 3600.0
"""Seconds after which an outage that goes on is logged again."""
LAST_CHANCE = 0.5
"""Seconds that noting the last success may take at the end."""
_BATCH = 50


async def deliver(
    host: Host,
    config: CommercialConfig,
    spool: Spool,
    metrics: TelemetryMetrics,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Make reports, and send everything, until cancelled. jitter: returns 0…1."""
    async with await Sender.open(host, config) as sender, asyncio.TaskGroup() as group:
        for kind in KINDS:
            group.create_task(Lane(kind, host.clock, spool, sender, metrics, jitter).run())
        group.create_task(make_reports(host, config, spool))


class Lane:
    """Sends the items of one kind, oldest first, each until the receiver takes or refuses it."""

    def __init__(
        self,
        kind: Kind,
        clock: Clock,
        spool: Spool,
        sender: Sender,
        metrics: TelemetryMetrics,
        jitter: Callable[[], float],
    ) -> None:
        self._kind = kind
        self._clock = clock
        self._spool = spool
        self._sender = sender
        self._metrics = metrics
        self._jitter = jitter
        self._failures = 0
        self._settled: tuple[Item, Outcome] | None = None
        self._told: tuple[str, float] | None = None

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            await self._send()
        finally:
            with suppress(Exception):  # what the receiver has taken last need not be sent again by the next process
                async with asyncio.timeout(LAST_CHANCE):
                    await self._settle()

    async def _send(self) -> None:
        arrived = self._spool.arrived[self._kind]
        while True:
            arrived.clear()
            try:
                pause = await self._round()
            except Exception as error:  # noqa: BLE001 - the database is away, or worse: the lane goes on
                pause = self._backoff()
                self._tell(f"the database: {error}")
            if pause is None:
                await self._idle(arrived)
            else:
                await self._clock.sleep(pause)

    async def _round(self) -> float | None:
        """Send what waits. Return the seconds to pause for, None when nothing waits any more."""
        await self._settle()
        items = await self._spool.head(self._kind, _BATCH)
        for item in items:
            outcome = await self._sender.post(item)
            self._metrics.sent(self._kind, outcome.what)
            if outcome.what in ("retry", "unreachable"):
                pause = max(self._backoff(), outcome.retry_after)
                self._tell(outcome.reason)
                await self._note(outcome)
                return pause
            self._settled = (item, outcome)
            await self._settle()
            self._recovered(outcome)
        return 0.0 if items else None

    async def _settle(self) -> None:
        """Take an item out of the spool that need not be sent again. Until the database lets us, nothing else is sent:
        so while this process lives, nothing is sent twice."""
        if self._settled is None:
            return
        item, outcome = self._settled
        if outcome.what == "delivered":
            await self._spool.settle(item, self._clock.now_us())
        else:
            await self._spool.settle(item, self._clock.now_us(), outcome.reason)
            self._metrics.dropped(self._kind, "refused")
            log.error(
                "The telemetry host refuses an item: it is dropped", kind=item.kind, id=item.id, reason=outcome.reason
            )
        self._settled = None

    async def _note(self, outcome: Outcome) -> None:
        try:
            await self._spool.failed(self._kind, self._clock.now_us(), outcome.reason)
        except Exception as error:  # noqa: BLE001 - it is only for those who look
            log.debug("An error of telemetry could not be noted", error=f"{error}")

    async def _idle(self, arrived: asyncio.Event) -> None:
        waiting = {asyncio.ensure_future(arrived.wait()), asyncio.ensure_future(self._clock.sleep(POLL))}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    def _backoff(self) -> float:
        first, longest = BACKOFF
        pause = min(first * 2.0 ** min(self._failures, 30), longest)
        self._failures += 1
        return pause * (0.5 + self._jitter() / 2)

    def _tell(self, reason: str) -> None:
        """Log why sending fails: at first, when the reason changes, and once in a while."""
        now = self._clock.monotonic()
        if self._told is None or self._told[0] != reason or now - self._told[1] >= REMIND:
            self._told = (reason, now)
            log.warning("Telemetry is not delivered: it is kept and tried again", kind=self._kind, reason=reason)

    def _recovered(self, outcome: Outcome) -> None:
        if self._told is not None and outcome.what == "delivered":
            log.info("Telemetry is delivered again", kind=self._kind, failed_attempts=self._failures)
            self._told = None
        self._failures = 0


async def make_reports(host: Host, config: CommercialConfig, spool: Spool) -> None:
    """Put a report into the spool every interval, counted over restarts and changes of the process."""
    interval = config.telemetry_interval * 1_000_000
    failing = False
    while True:
        try:
            last = await spool.last_spooled_at("report")
            since = interval if last is None else host.clock.now_us() - last
            if 0 <= since < interval:
                await host.clock.sleep((interval - since) / 1_000_000)
            await spool.put([await make_report(host, config)])
            failing = False
        except Exception as error:  # noqa: BLE001 - whatever it is, the next report may succeed
            if not failing:
                log.warning("A telemetry report could not be made", error=f"{type(error).__name__}: {error}")
            failing = True
            await host.clock.sleep(min(REPORT_RETRY, config.telemetry_interval))
