"""Licensing: signed caps on how much a server holds (licensing.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clavitor_host.api import AdminPage, Host, Job, Metrics, Migrations, Plugin, Transaction, hookimpl

if TYPE_CHECKING:
    import typer
    from pydantic import BaseModel
    from quart import Blueprint

    from clavitor_licensing.enforcer import LicenseEnforcer
    from clavitor_licensing.metrics import LicenseMetrics
    from clavitor_licensing.service import LicenseService

NAME = "licensing"


class Licensing(Plugin):
    """Hooks only; `service.LicenseService` knows the license, `enforcer.LicenseEnforcer` enforces its caps."""

    name = NAME
    version = "1.0.0"

    _service: LicenseService | None = None
    _enforcer: LicenseEnforcer
    _metrics: LicenseMetrics

    @hookimpl
    def config_model(self) -> type[BaseModel]:
        from clavitor_licensing.config import LicensingConfig

        return LicensingConfig

    @hookimpl
    def migrations(self) -> Migrations:
        from clavitor_licensing.migrations import HISTORY

        return HISTORY

    @hookimpl
    async def startup(self, host: Host) -> None:
        await self._of(host).start()

    @hookimpl
    async def shutdown(self, host: Host) -> None:
        await self._of(host).stop()

    @hookimpl
    def blueprints(self, host: Host) -> Sequence[Blueprint]:
        from clavitor_licensing import pages, routes

        return [routes.blueprint, pages.blueprint]

    @hookimpl
    def admin_pages(self, host: Host) -> Sequence[AdminPage]:
        return [AdminPage("License", "/admin/license", "§", "license.read")]

    @hookimpl
    def commands(self) -> Sequence[typer.Typer]:
        from clavitor_licensing.commands import app

        return [app]

    @hookimpl
    def jobs(self, host: Host) -> Sequence[Job]:
        from clavitor_licensing.jobs import license_jobs

        return license_jobs(self._of(host), self._enforcer)

    @hookimpl
    def metrics(self, registry: Metrics) -> None:
        from clavitor_licensing.metrics import LicenseMetrics

        self._metrics = LicenseMetrics(registry, lambda: self._service)

    @hookimpl
    async def assert_within_cap(self, tx: Transaction, limit: str, delta: int, requested_by: str) -> None:
        await self._enforcer.assert_within_cap(tx, limit, delta, requested_by)

    @hookimpl
    async def effective_cap(self, host: Host, limit: str) -> int | None:
        from clavitor_licensing.domain.limits import DEFAULT_TIER_LIMITS

        return self._of(host).limits().cap(limit) if limit in DEFAULT_TIER_LIMITS else None

    @hookimpl
    async def status_report(self, host: Host) -> Mapping[str, Any]:
        from clavitor_licensing.models import status_of

        return status_of(await self._of(host).view())

    def _of(self, host: Host) -> LicenseService:
        """Return the service, made at its first use: every hook but `metrics` comes after the configuration."""
        if self._service is None:
            from clavitor_licensing.config import LicensingConfig
            from clavitor_licensing.enforcer import LicenseEnforcer
            from clavitor_licensing.service import LicenseService

            config = host.plugin_config(NAME)
            assert isinstance(config, LicensingConfig)
            self._service = LicenseService(host, config)
            self._enforcer = LicenseEnforcer(host, self._service, self._metrics.rejected)
            host.state[NAME] = self._service
        return self._service


plugin = Licensing
