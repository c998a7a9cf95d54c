"""The service behind the plugin's hooks: one per app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clavitor_commercial.alerts import alert_item
from clavitor_commercial.inbox import Inbox
from clavitor_commercial.lanes import deliver
from clavitor_commercial.spool import Fares, Spool
from clavitor_host.api import Alert, Host

if TYPE_CHECKING:
    from clavitor_commercial.config import CommercialConfig
    from clavitor_commercial.metrics import TelemetryMetrics

SILENCE = 600.0
"""Seconds without a delivery, while something waits, after which the health check says so; at least 3 intervals."""


class Telemetry:
    """Keeps alerts, makes reports, sends both. `enabled`: whether anything is ever sent."""

    def __init__(self, host: Host, config: CommercialConfig, metrics: TelemetryMetrics, *, enabled: bool) -> None:
        self.config = config
        self.enabled = enabled
        self.spool = Spool(host.db, metrics)
        self.inbox = Inbox(self.spool, host.clock, metrics)
        self._host = host
        self._metrics = metrics

    async def alert(self, alert: Alert) -> None:
        """Have an alert sent. Returns when it is durable, or after a second."""
        item = alert_item(alert, pop=self.config.pop, version=self._host.version)
        await self.inbox.add(item, wait=self._host.db.current() is None)

    async def work(self) -> None:
        """Make and send, until cancelled: in one process of a deployment."""
        await deliver(self._host, self.config, self.spool, self._metrics)

    async def report(self) -> dict[str, Any]:
        """Return how telemetry fares, as JSON values. Times in µs since the epoch."""
        fares = await self.spool.fares()
        return {
            "telemetry": self.enabled,
            "telemetry_host": self.config.telemetry_host if self.enabled else None,
            "alerts": _shown(fares["alert"]),
            "reports": _shown(fares["report"]),
        }

    async def trouble(self) -> str | None:
        """Return the sentence for `/readyz` when nothing was delivered for long, without saying where to."""
        if not self.enabled:
            return None
        now = self._host.clock.now_us()
        limit = max(SILENCE, 3.0 * self.config.telemetry_interval)
        silent = max(_silence(fares, now) for fares in (await self.spool.fares()).values())
        if silent <= limit:
            return None
        return f"telemetry has not been delivered for {silent / 60:.0f} minutes; `clavitor telemetry status` says why"


def _silence(fares: Fares, now: int) -> float:
    """Return the seconds for which something has waited without any delivery."""
    if fares.oldest_at is None:
        return 0.0
    return (now - max(fares.oldest_at, fares.delivered_at or 0)) / 1_000_000


def _shown(fares: Fares) -> dict[str, Any]:
    return {
        "spooled": fares.spooled,
        "oldest_at": fares.oldest_at,
        "last_success_at": fares.delivered_at,
        "last_error": fares.error,
        "last_error_at": fares.error_at,
    }
