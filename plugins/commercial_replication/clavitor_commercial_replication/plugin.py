"""Replication to a backup POP: the hooks. Each hands on to the module that does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clavitor_host.api import (
    AdminPage,
    Change,
    HealthCheck,
    Host,
    Identity,
    Job,
    Metrics,
    Migrations,
    Plugin,
    Request,
    Resource,
    Transaction,
    every,
    hookimpl,
    worker,
)

if TYPE_CHECKING:
    import typer
    from pydantic import BaseModel
    from quart import Blueprint

    from clavitor_commercial_replication.metrics import ReplicationMetrics
    from clavitor_commercial_replication.service import Replication

NAME = "commercial_replication"


class CommercialReplication(Plugin):
    """Hooks only."""

    name = NAME
    version = "1.0.0"

    _service: Replication | None = None
    _metrics: ReplicationMetrics

    @hookimpl
    def config_model(self) -> type[BaseModel]:
        from clavitor_commercial_replication.config import ReplicationConfig

        return ReplicationConfig

    @hookimpl
    def migrations(self) -> Migrations:
        from clavitor_commercial_replication.migrations import HISTORY

        return HISTORY

    @hookimpl
    def metrics(self, registry: Metrics) -> None:
        from clavitor_commercial_replication.metrics import ReplicationMetrics

        self._metrics = ReplicationMetrics(registry, lambda: self._service)

    @hookimpl
    async def startup(self, host: Host) -> None:
        await self._of(host).start()

    @hookimpl
    async def shutdown(self, host: Host) -> None:
        await self._of(host).stop()

    @hookimpl
    def blueprints(self, host: Host) -> Sequence[Blueprint]:
        from clavitor_commercial_replication import pages, routes

        return [routes.blueprint, pages.blueprint]

    @hookimpl
    def admin_pages(self, host: Host) -> Sequence[AdminPage]:
        return [AdminPage("Replication", "/admin/replication", "⇄")] if self._of(host).on else []

    @hookimpl
    def commands(self) -> Sequence[typer.Typer]:
        from clavitor_commercial_replication.commands import app

        return [app]

    @hookimpl
    def jobs(self, host: Host) -> Sequence[Job]:
        """One process of a deployment sends, and one watches; with replication off, none does."""
        service = self._of(host)
        if not service.on:
            return []
        from clavitor_commercial_replication.sender import Sender
        from clavitor_commercial_replication.watch import INTERVAL, Watch

        return [
            worker(Sender(service).run, name="sender", exclusive=True),
            every(INTERVAL, Watch(service).look, name="watch", exclusive=True),
        ]

    @hookimpl
    def health_checks(self, host: Host) -> Sequence[HealthCheck]:
        """Told, but never a reason not to be ready: `/readyz` does not depend on the other POP."""
        service = self._of(host)
        if not service.on:
            return []
        from clavitor_commercial_replication.status import trouble

        async def check() -> str | None:
            return await trouble(service)

        return [HealthCheck("replication", check, critical=False)]

    @hookimpl
    async def status_report(self, host: Host) -> Mapping[str, Any]:
        from clavitor_commercial_replication.status import report

        return await report(self._of(host))

    @hookimpl
    async def entry_changing(self, host: Host, tx: Transaction, change: Change) -> None:
        service = self._of(host)
        if service.on:
            from clavitor_commercial_replication.marking import note

            note(service, tx, change)

    @hookimpl
    async def admit(self, host: Host, request: Request, action: str | None) -> None:
        service = self._of(host)
        if service.on:
            from clavitor_commercial_replication.guard import admit

            await admit(service, request, action)

    @hookimpl
    async def authenticate(self, host: Host, request: Request) -> Identity | None:
        service = self._of(host)
        if not service.on:
            return None
        from clavitor_commercial_replication.mirror import by_token
        from clavitor_commercial_replication.peers import by_credential

        return by_credential(service, request) or await by_token(service, request)

    @hookimpl
    async def authorize(self, host: Host, identity: Identity, action: str, resource: Resource) -> None:
        if identity.kind == "peer":
            from clavitor_commercial_replication.peers import check_authorized

            check_authorized(self._of(host), identity)
        elif identity.via == "plugin":
            from clavitor_commercial_replication.mirror import check_action

            check_action(identity, action)

    def _of(self, host: Host) -> Replication:
        """Return the service, made at its first use: every hook but `metrics` comes after the configuration."""
        if self._service is None:
            from clavitor_commercial_replication.config import ReplicationConfig
            from clavitor_commercial_replication.service import Replication

            config = host.plugin_config(NAME)
            assert isinstance(config, ReplicationConfig)
            self._service = host.state[NAME] = Replication(host, config, self._metrics)
        return self._service


plugin = CommercialReplication
