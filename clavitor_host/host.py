"""`Host`: the facade that every hook and service is handed.

What a feature needs of the rest of the program it finds here: configuration, database, audit, hooks, metrics,
the edition, the clock, outbound HTTP, and the moment of shutdown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from clavitor_host import __version__
from clavitor_host.errors import Problem, unauthorized

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from clavitor_host.audit.log import AuditLog
    from clavitor_host.clock import Clock
    from clavitor_host.config.models import HostConfig
    from clavitor_host.http import Request
    from clavitor_host.identity.models import Identity, Resource
    from clavitor_host.metrics import Metrics
    from clavitor_host.outbound import Outbound
    from clavitor_host.plugins.dispatch import Hooks
    from clavitor_host.plugins.edition import Edition
    from clavitor_host.plugins.models import AdminPage, HealthCheck
    from clavitor_host.plugins.records import PluginRecord
    from clavitor_host.plugins.registry import PluginRegistry
    from clavitor_host.storage.database import Database, Transaction
    from clavitor_host.storage.signals import Signals
    from clavitor_host.storage.writer import GroupCommitWriter
    from clavitor_host.vault.view import VaultView
    from clavitor_host.vault.writing import EntryWriter

Authenticate = Callable[["Host", "Request"], Awaitable["Identity | None"]]
NoteRefused = Callable[["Host", "Request", Problem], Awaitable[None]]
Authorize = Callable[["Host", "Identity", str, "Resource"], Awaitable[None]]
Status = Callable[["Host"], Awaitable[dict[str, Any]]]


class Host:
    """One per app. Attributes are set once, while the app is put together; `app.create_host` is the place.

    `shutdown` is set the moment the server is told to stop, before it drains: long handlers leave when it is.
    `offline` is True for a command that works on the database without serving.
    """

    version = __version__

    config: HostConfig
    clock: Clock
    db: Database
    writer: GroupCommitWriter
    signals: Signals
    audit: AuditLog
    metrics: Metrics
    outbound: Outbound
    registry: PluginRegistry
    hooks: Hooks
    edition: Edition
    entries: EntryWriter
    vault: VaultView
    cap_counters: Mapping[str, Callable[[Transaction], Awaitable[int]]] = MappingProxyType({})
    """What the host itself counts, by limit."""
    admin_pages: Sequence[AdminPage] = ()
    health_checks: Sequence[HealthCheck] = ()
    offline = False
    access_log = False
    metrics_token: str | None = None
    started_at: int = 0

    def __init__(
        self, *, authenticate: Authenticate, authorize: Authorize, note_refused: NoteRefused, status: Status
    ) -> None:
        self.shutdown = asyncio.Event()
        self.boot_id = uuid4().hex
        """Names this start of the server; its workers, and those that replace them, have the same one."""
        self.state: dict[str, Any] = {}
        """What features keep for the life of the app, under their own name."""
        self._authenticate = authenticate
        self._authorize = authorize
        self._note_refused = note_refused
        self._status = status

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return self.config.data_dir

    @property
    def plugins(self) -> Sequence[PluginRecord]:
        """The plugins of this build, in load order."""
        return self.registry.records

    def plugin_config(self, name: str) -> BaseModel:
        """Return the filled configuration model of a plugin."""
        record = self.registry.get(name)
        if record is None or record.config is None:
            raise KeyError(f"no plugin {name} with a configuration")
        config: BaseModel = record.config
        return config

    def plugin_configured(self, name: str) -> bool:
        """Return whether `[plugins.<name>]` or one of its variables was given at all."""
        record = self.registry.get(name)
        return record is not None and record.configured

    async def authenticate(self, request: Request) -> Identity:
        """Return who makes the request. Raises the 401 when nobody we know does."""
        identity = await self._authenticate(self, request)
        if identity is None:
            raise unauthorized()
        return identity

    async def identify(self, request: Request) -> Identity | None:
        """Return who makes the request, None when nobody we know does."""
        try:
            return await self._authenticate(self, request)
        except Problem as error:
            if error.status in (401, 403):
                return None
            raise

    async def admit(self, request: Request, action: str | None) -> None:
        """Raise when the state of this server forbids the request, whoever makes it (the hook `admit`)."""
        if self.hooks.has("admit"):
            await self.hooks.policy("admit", host=self, request=request, action=action)

    async def authorize(self, identity: Identity, action: str, resource: Resource) -> None:
        """Raise a 403 unless the roles and every policy allow the action."""
        await self._authorize(self, identity, action, resource)

    async def status(self) -> dict[str, Any]:
        """Return what `clavitor status` and `/api/v1/status` show: the host's own facts, and under `plugins` what each
        plugin reports of itself. Raises `StorageUnavailable`."""
        return await self._status(self)

    async def is_at_work(self, job: str) -> bool:
        """Tell whether a process of this deployment has the exclusive job `<plugin>.<name>`; so a command that works on
        the database tells whether a server runs. A killed one counts while its lease lasts, 30 seconds.

        Raises `StorageUnavailable`.
        """
        from clavitor_host.storage.leases import is_held

        return await is_held(self.db, self.clock, f"job:{job}")

    async def refused(self, request: Request, error: Problem) -> None:
        """Record a refusal in the audit log, once, and bounded. Never raises: the refusal stands without it."""
        with suppress(Problem):
            await self._note_refused(self, request, error)

    async def assert_within_cap(self, tx: Transaction, limit: str, delta: int, requested_by: str) -> None:
        """Raise `CapExceeded` when creating `delta` more of `limit` would pass a cap.

        Call it in the creating transaction, before any other statement of it. For a limit on a value `delta` is the
        value asked for (see the hook). With no licensing plugin there are no caps. The refusal is audited by whoever
        raises it, when the transaction has ended.
        """
        if self.hooks.has("assert_within_cap"):
            await self.hooks.policy(
                "assert_within_cap", host=self, tx=tx, limit=limit, delta=delta, requested_by=requested_by
            )

    async def effective_cap(self, limit: str) -> int | None:
        """Return the cap in force for a limit, None when there is none."""
        cap: int | None = await self.hooks.first_async("effective_cap", host=self, limit=limit)
        return cap

    async def cap_usage(self, tx: Transaction, limits: Collection[str]) -> dict[str, int]:
        """Return how much of `limits` is in use now, counted in the caller's transaction.

        What nobody counts is left out. Raises whatever a plugin that counts raises.
        """
        usage = {limit: await count(tx) for limit, count in self.cap_counters.items() if limit in limits}
        for _, counted in await self.hooks.contributions_async("cap_usage", host=self, tx=tx, limits=limits):
            for limit in counted.keys() & limits:
                usage[limit] = usage.get(limit, 0) + counted[limit]
        return usage

    async def cap_values(self, tx: Transaction) -> dict[str, dict[str, int]]:
        """Return `{limit: {environment: value}}` of what is configured for each limit on a value.

        Raises whatever a plugin that tells raises.
        """
        values: dict[str, dict[str, int]] = {}
        for _, told in await self.hooks.contributions_async("cap_values", host=self, tx=tx):
            for limit, named in told.items():
                values.setdefault(limit, {}).update(named)
        return values
