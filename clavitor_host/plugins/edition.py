"""`host.edition`: what application code asks of the edition, whichever runs (editions.md section 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from clavitor_host import log
from clavitor_host.plugins.models import Alert

if TYPE_CHECKING:
    from clavitor_host.host import Host


class Edition:
    """The edition of one app. `name` is "community" or "commercial"."""

    def __init__(self, name: str, host: Host) -> None:
        """host: asked for its hooks and clock when an alert is raised, so it may still be incomplete."""
        self.name = name
        self._host = host

    async def alert_operator(self, type: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        """Raise an alert: something that needs a person. Never raises.

        type: a stable word such as `plugin_quarantined`. details: JSON values. It is logged before any plugin
        hears of it, so it is never lost to a failing one.
        """
        alert = Alert(type, message, dict(details or {}), id=uuid4().hex, at=self._host.clock.now_us())
        log.warning("Operator alert: " + message, alert_type=alert.type, alert_id=alert.id)
        await self._host.hooks.broadcast("alert_operator", host=self._host, alert=alert)

    def is_telemetry_enabled(self) -> bool:
        """Tell whether any plugin sends data to a central server."""
        answers = self._host.hooks.answers("is_telemetry_enabled", host=self._host)
        return any(answer for _, answer in answers)
