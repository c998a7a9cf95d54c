"""The community edition: no network, alerts in the local log, an immediate 404."""

from __future__ import annotations

from typing import Literal

from clavitor_host.api import Alert, Plugin, Reply, Request, hookimpl, log, unmatched_reply


class CommunityEdition(Plugin):
    """The four hooks of the edition interface (editions.md section 1)."""

    name = "community"
    version = "1.0.0"

    @hookimpl
    def edition_name(self) -> Literal["community"]:
        return "community"

    @hookimpl
    async def alert_operator(self, alert: Alert) -> None:
        """Write the whole alert as one structured line; the host's own line has its message only."""
        log.warning(alert.message, alert=alert.type, alert_id=alert.id, at=alert.at, details=dict(alert.details))

    @hookimpl
    def is_telemetry_enabled(self) -> bool:
        return False

    @hookimpl
    async def not_found_handler(self, request: Request) -> Reply:
        return unmatched_reply(request)


plugin = CommunityEdition
