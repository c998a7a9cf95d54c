"""A whole app in the test's own process: real plugins, real database, requests over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from quart import Quart
from quart.testing import TestApp

from clavitor_host.app import App, around, create_host
from clavitor_host.clock import Clock
from clavitor_host.config.sources import Config, load
from clavitor_host.host import Host
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.tokens import create_token
from clavitor_host.identity.users import create_user
from clavitor_host.plugins.configure import config_models
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.registry import PluginRegistry

BASE_URL = "http://127.0.0.1:8400"
PATIENCE = 60
"""Seconds that an app may take to start, and to stop."""


def settings(folder: Path, bundle: BundleInfo, environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """Return a configuration with its data in `folder`, from variables and flags alone."""
    models = config_models(PluginRegistry(bundle.plugins, bundle.edition))
    return load({"data_dir": str(folder), **flags}, models, environ or {}, folder)


@dataclass
class Harness:
    """A started app. `client` makes requests without a credential, `client_for` with one."""

    app: App
    web: Quart
    stack: AsyncExitStack
    users: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The app's facade."""
        return self.app.host

    async def client(self, **options: Any) -> httpx.AsyncClient:
        """Return an HTTP client of the app, closed with it."""
        transport = httpx.ASGITransport(app=self.web, client=("127.0.0.1", 50000))  # type: ignore[arg-type]
        return await self.stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=BASE_URL, **options)
        )

    async def client_for(self, role: str, **token: Any) -> httpx.AsyncClient:
        """Return a client with a new token of a user of `role`; keyword arguments go to `create_token`."""
        user_id = self.users.get(role)
        if user_id is None:
            made = await create_user(self.host, name=role.lower(), role=Role(role), requested_by=SYSTEM)
            user_id = self.users[role] = made.id
        options = {"name": "test", "user_id": user_id, "requested_by": SYSTEM, **token}
        _, secret = await create_token(self.host, **options)
        return await self.client(headers={"Authorization": f"Bearer {secret}"})


@asynccontextmanager
async def running_app(
    config: Config,
    bundle: BundleInfo,
    *,
    hot_routes: bool = True,
    clock: Clock | None = None,
    boot_id: str | None = None,
) -> AsyncIterator[Harness]:
    """Start an app in this process and stop it in the end. Every app has its own host; several may run at once.

    boot_id: of an earlier one, to be another worker of the same start.
    """
    app = create_host(config, bundle, clock=clock)
    app.host.boot_id = boot_id or app.host.boot_id
    web = around(app, hot_routes=hot_routes)
    async with AsyncExitStack() as stack, running(web):
        yield Harness(app, web, stack)


def running(web: Quart) -> TestApp:
    """Return a context in which an app has started, and in the end stopped. A busy machine may take its time."""
    return TestApp(web, startup_timeout=PATIENCE, shutdown_timeout=PATIENCE)
