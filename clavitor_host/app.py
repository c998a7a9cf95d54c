"""Putting an app together: wiring only.

`create_host` makes the `Host` with everything in it but a network; `create_app` puts routes around it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import quart
from quart import Quart
from quart.typing import ResponseTypes

from clavitor_host import log
from clavitor_host.audit.jobs import audit_jobs
from clavitor_host.audit.log import AuditLog
from clavitor_host.audit.models import AuditEvent
from clavitor_host.audit.routes import blueprint as audit_routes
from clavitor_host.clock import Clock, SystemClock
from clavitor_host.config.sources import Config
from clavitor_host.endpoint import ADMITS, HOST, from_quart
from clavitor_host.errors import ClavitorError, StartError
from clavitor_host.host import Host
from clavitor_host.identity.authentication import authenticate
from clavitor_host.identity.authorization import authorize, note_refused
from clavitor_host.identity.jobs import identity_jobs
from clavitor_host.identity.last_used import flush_last_used
from clavitor_host.identity.routes import blueprints as identity_routes
from clavitor_host.identity.users import count_users
from clavitor_host.jobs.contributions import add_plugin_jobs
from clavitor_host.jobs.runner import JobRunner
from clavitor_host.metrics import Metrics
from clavitor_host.outbound import Outbound
from clavitor_host.plugins.checks import HOST as HOST_OWNER
from clavitor_host.plugins.configure import configure
from clavitor_host.plugins.contributions import (
    collect_admin_pages,
    collect_health_checks,
    collect_metrics,
    collect_migrations,
)
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.edition import Edition
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.lifecycle import Lifecycle
from clavitor_host.plugins.models import HealthCheck
from clavitor_host.plugins.registry import PluginRegistry
from clavitor_host.plugins.routes import add_blueprints
from clavitor_host.schema import HISTORY
from clavitor_host.storage.database import Database
from clavitor_host.storage.leases import LeaseKeeper
from clavitor_host.storage.migrations import Migrations, migrate
from clavitor_host.storage.signals import Signals
from clavitor_host.storage.writer import GroupCommitWriter
from clavitor_host.vault.metrics import vault_metrics
from clavitor_host.vault.routes import HOT, HOT_PREFIX
from clavitor_host.vault.routes import blueprint as vault_routes
from clavitor_host.vault.view import VaultView
from clavitor_host.vault.writing import EntryWriter
from clavitor_host.web import bodies, errors, pages
from clavitor_host.web.gateway import Gateway
from clavitor_host.web.routing import Route
from clavitor_host.web.status import report as status
from clavitor_host.web.system import blueprint as system_routes

METRICS_LOAD = 2.0
"""Seconds after the start at which the metrics library is loaded, so that no request waits for it."""


class App:
    """A host and its life: `start` opens and migrates the database and starts the plugins, `stop` undoes it."""

    def __init__(
        self,
        host: Host,
        *,
        histories: Sequence[Migrations],
        lifecycle: Lifecycle,
        leases: LeaseKeeper,
        jobs: JobRunner,
    ) -> None:
        self.host = host
        self.histories = histories
        """The schema histories of the host and of every plugin, in load order."""
        self.jobs = jobs
        self._lifecycle = lifecycle
        self._leases = leases

    async def start(self, *, offline: bool = False) -> None:
        """Make the host ready. offline: for a command that works on the database; no job runs.

        Raises `StartError` when the database cannot be used, `PluginError` when a required plugin fails.
        """
        host = self.host
        host.offline = offline
        _make_folder(host.data_dir)
        await host.db.open()
        try:
            await migrate(host.db, self.histories)
            await host.writer.start()
            await self._lifecycle.start(host)
            if not offline:
                await self._leases.start()
                await host.signals.start()
                await self.jobs.start()
        except BaseException:
            await self.stop()
            raise
        host.started_at = host.clock.now_us()
        asyncio.get_running_loop().call_later(METRICS_LOAD, host.metrics.load)

    async def stop(self) -> None:
        """Let go of everything, in the reverse order; also after a start that failed half-way."""
        host = self.host
        host.shutdown.set()
        await self.jobs.stop()
        await self._lifecycle.stop(host)
        if host.started_at:
            await _quietly(flush_last_used(host))
        await self._leases.stop()
        await host.signals.stop()
        await host.writer.stop()
        await host.outbound.close()
        await host.db.close()


def create_host(
    config: Config, bundle: BundleInfo, *, registry: PluginRegistry | None = None, clock: Clock | None = None
) -> App:
    """Load, check and configure the plugins of `bundle` and put the host together; nothing is opened yet.

    registry: the bundle's plugins, when the caller has registered them already; it serves one host.
    Raises `PluginError` or `ConfigError` with one clear line.
    """
    registry = registry or PluginRegistry(bundle.plugins, bundle.edition)
    configure(registry, config.plugin_tables, config.origins)
    host = Host(authenticate=authenticate, authorize=authorize, note_refused=note_refused, status=status)
    host.config = config.host
    host.clock = clock or SystemClock()
    host.registry = registry
    host.metrics = Metrics()
    host.hooks = Hooks(registry, host.metrics)
    host.edition = Edition(registry.edition, host)
    host.outbound = Outbound(host.metrics)
    host.db = Database(config.host.storage_url)
    host.writer = GroupCommitWriter(host.db)
    host.signals = Signals(host.db, host.clock, host.metrics)
    host.audit = AuditLog(host.writer, host.clock)
    host.entries = EntryWriter(host)
    host.vault = VaultView(host.db)
    host.cap_counters = {"max_users": count_users}
    host.access_log = config.host.log.access
    token = config.host.metrics_token
    host.metrics_token = None if token is None else token.get_secret_value()
    if host.hooks.has("audit_recorded"):
        host.audit.recorded = _announce_audit(host)
    collect_metrics(host.hooks, host.metrics)
    vault_metrics(host)
    host.health_checks = collect_health_checks(host.hooks, host, (_database_check(host),))
    leases = LeaseKeeper(host.db, host.clock)
    jobs = JobRunner(host.clock, leases, host.db, metrics=host.metrics)
    for job in (*identity_jobs(host), *audit_jobs(host)):
        jobs.add(HOST_OWNER, job)
    add_plugin_jobs(jobs, host.hooks, host)
    return App(
        host,
        histories=collect_migrations(host.hooks, HISTORY),
        lifecycle=Lifecycle(host.hooks, host.metrics, host.edition.alert_operator),
        leases=leases,
        jobs=jobs,
    )


def create_app(config: Config, bundle: BundleInfo, *, clock: Clock | None = None, hot_routes: bool = True) -> Quart:
    """Return the web application of a host. Its lifespan starts and stops the host.

    hot_routes: False sends every request through the framework (for tests of both ways).
    """
    app = create_host(config, bundle, clock=clock)
    return around(app, hot_routes=hot_routes)


def around(app: App, *, hot_routes: bool = True) -> Quart:
    """Return the web application around a host."""
    host = app.host
    web = Quart("clavitor_host", static_folder=None)
    web.url_rule_class = Route
    web.url_map.merge_slashes = False  # one resource has one path
    web.config["MAX_CONTENT_LENGTH"] = None  # bodies are bounded in serve.limits, by route
    web.config["BODY_TIMEOUT"] = None
    web.config["RESPONSE_TIMEOUT"] = None
    web.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # there is no cross-origin use to negotiate
    bodies.install(web)
    web.extensions[HOST] = host
    for blueprint in (vault_routes, *identity_routes, audit_routes, system_routes, pages.blueprint(host)):
        web.register_blueprint(blueprint)
    errors.install(web, host)
    web.before_request(_admit_foreign)
    web.after_request(_note_route)
    add_blueprints(web, host.hooks, host)
    host.admin_pages = collect_admin_pages(host.hooks, host)
    web.before_serving(app.start)
    web.after_serving(app.stop)
    hot: dict[str, Any] = HOT if hot_routes else {}
    framework: Any = web.asgi_app
    web.asgi_app = Gateway(host, framework, prefix=HOT_PREFIX, hot=hot)  # type: ignore[method-assign,assignment]
    return web


async def _quietly(last: Awaitable[None]) -> None:
    """Do something on the way out; what cannot be done any more is only logged."""
    try:
        await last
    except ClavitorError as error:
        log.warning("Something could not be written at the end", error=str(error))


async def _admit_foreign() -> None:
    """Ask `host.admit` about a route that a plugin wrote without `endpoint` or `page`, which ask it themselves."""
    rule = quart.request.url_rule
    if rule is None or hasattr(quart.current_app.view_functions.get(rule.endpoint), ADMITS):
        return
    host: Host = quart.current_app.extensions[HOST]
    if host.hooks.has("admit"):
        quart.g.admitted = request = from_quart(host)
        await host.admit(request, None)


async def _note_route(response: ResponseTypes) -> ResponseTypes:
    """Tell the gateway which route answered, for its metrics; add what `_admit_foreign` was given for the reply."""
    if quart.request.url_rule is not None:
        quart.request.scope["state"]["route"] = quart.request.url_rule.rule
    if "admitted" in quart.g:
        response.headers.update(quart.g.admitted.reply_headers)
    return response


def _announce_audit(host: Host) -> Any:
    async def announce(event: AuditEvent) -> None:
        await host.hooks.broadcast("audit_recorded", host=host, event=event)

    return announce


def _database_check(host: Host) -> HealthCheck:
    async def check() -> str | None:
        await host.db.ping()
        return None

    return HealthCheck("database", check)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"The data folder {folder} cannot be made: {error.strerror}.") from None
