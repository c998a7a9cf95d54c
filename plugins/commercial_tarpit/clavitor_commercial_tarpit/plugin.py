"""The tarpit: who asks for what does not exist, and does not say who they are, waits 30 seconds for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_commercial_tarpit.metrics import TarpitMetrics
from clavitor_host.api import Host, Metrics, Plugin, Reply, Request, hookimpl, unmatched_reply

if TYPE_CHECKING:
    from clavitor_commercial_tarpit.pit import Pit


class Tarpit(Plugin):
    """`not_found_handler` (commercial.md section 2). No configuration, no tables, no network."""

    name = "commercial_tarpit"
    version = "1.0.0"

    def __init__(self) -> None:
        self._metrics: TarpitMetrics | None = None
        self._pit: Pit | None = None

    @hookimpl
    def metrics(self, registry: Metrics) -> None:
        self._metrics = TarpitMetrics(registry)

    @hookimpl
    async def startup(self, host: Host) -> None:
        if host.offline:
            return
        from clavitor_commercial_tarpit.pit import Pit

        assert self._metrics is not None
        self._pit = Pit(host, self._metrics)

    @hookimpl
    async def shutdown(self) -> None:
        if self._pit is not None:
            self._pit.close()

    @hookimpl
    async def not_found_handler(self, request: Request) -> Reply:
        held = None if self._pit is None else await self._pit.hold(request)
        return held or unmatched_reply(request)


plugin = Tarpit
