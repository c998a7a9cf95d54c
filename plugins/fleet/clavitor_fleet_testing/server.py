"""An app with the fleet, and with licensing where caps matter; the clock stands where a test puts it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_fleet.fleet import Fleet, fleet_of
from clavitor_fleet.plugin import FleetPlugin
from clavitor_licensing.plugin import Licensing
from clavitor_licensing_testing.server import FrozenClock

from clavitor_host.api import Host, Plugin
from clavitor_host.plugins.frozen import BundleInfo, frozen_set
from clavitor_host.testing import FrozenPlugin, Harness, running_app, settings
from clavitor_host.testing.postgres import PostgresServer, missing

V1 = "/api/v1"


def bundle(*more: type[Plugin], licensing: bool = False) -> BundleInfo:
    """The community edition with the fleet, and with further plugins."""
    stock = frozen_set()
    edition = [plugin for plugin in stock.plugins if plugin.distribution == "clavitor-community"]
    added = [FrozenPlugin("clavitor-fleet", FleetPlugin)]
    if licensing:
        added.append(FrozenPlugin("clavitor-licensing", Licensing))
    added += [FrozenPlugin(plugin.name, plugin) for plugin in more]
    return BundleInfo(stock.name, stock.edition, (*edition, *added))


class Server:
    """A started app, with an ADMIN to ask it. `clock.now` is seconds since the epoch; add to it to let time pass."""

    def __init__(self, harness: Harness, admin: httpx.AsyncClient, clock: FrozenClock) -> None:
        self.harness = harness
        self.admin = admin
        self.clock = clock

    @property
    def host(self) -> Host:
        return self.harness.host

    @property
    def fleet(self) -> Fleet:
        return fleet_of(self.host)

    async def post(self, path: str, body: Any = None, *, expect: int = 201, **options: Any) -> Any:
        """POST as ADMIN to a path below /api/v1; return the JSON of the answer."""
        return _checked(await self.admin.post(f"{V1}/{path}", json=body, **options), expect)

    async def put(self, path: str, body: Any, *, expect: int = 200) -> Any:
        return _checked(await self.admin.put(f"{V1}/{path}", json=body), expect)

    async def get(self, path: str, *, expect: int = 200, **query: Any) -> Any:
        return _checked(await self.admin.get(f"{V1}/{path}", params=query), expect)

    async def delete(self, path: str, *, expect: int = 204) -> Any:
        return _checked(await self.admin.delete(f"{V1}/{path}"), expect)

    async def environment(self, name: str = "production", **more: Any) -> str:
        """Make an environment; return its id."""
        return str((await self.post("environments", {"name": name, **more}))["id"])

    async def app(self, environment_id: str, name: str = "shop") -> str:
        """Make an app; return its id."""
        return str((await self.post("apps", {"environment_id": environment_id, "name": name}))["id"])

    async def audit(self, **query: Any) -> list[dict[str, Any]]:
        """Return audit rows, newest first."""
        rows: list[dict[str, Any]] = (await self.get("admin/audit", **query))["rows"]
        return rows

    async def client(self, token: str) -> httpx.AsyncClient:
        """Return a client that shows a token."""
        return await self.harness.client(headers={"Authorization": f"Bearer {token}"})


def _checked(reply: httpx.Response, expect: int) -> Any:
    assert reply.status_code == expect, f"{reply.status_code} {reply.text}"
    return reply.json() if reply.content else None


Start = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def servers(folder: Path, url: str, clock: FrozenClock) -> AsyncIterator[Start]:
    """Give `start(*plugins, licensing=False, **environ)`; each call is one more process, as far as memory goes.

    `start(stop=server)` ends that one first.
    """
    async with AsyncExitStack() as stack:
        open_stacks: dict[int, AsyncExitStack] = {}

        async def start(
            *more: type[Plugin], licensing: bool = False, stop: Server | None = None, **environ: str
        ) -> Server:
            if stop is not None:
                await open_stacks.pop(id(stop)).aclose()
            made = bundle(*more, licensing=licensing)
            own = await stack.enter_async_context(AsyncExitStack())
            config = settings(folder / "data", made, {"CLAVITOR_DATABASE_URL": url, **environ})
            harness = await own.enter_async_context(running_app(config, made, clock=clock))
            server = Server(harness, await _admin(harness), clock)
            open_stacks[id(server)] = own
            return server

        yield start


async def _admin(harness: Harness) -> httpx.AsyncClient:
    from clavitor_host.identity.users import list_users

    known, _ = await list_users(harness.host, name="admin")
    if known:
        harness.users["ADMIN"] = known[0].id
    return await harness.client_for("ADMIN")


@asynccontextmanager
async def fresh_database(kind: str, folder: Path) -> AsyncIterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/vault.db"
        return
    reason = missing()
    if reason:
        pytest.skip(reason)
    async with PostgresServer.shared().database() as url:
        yield url
