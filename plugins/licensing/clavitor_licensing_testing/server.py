"""A server with the licensing plugin, a clock that a test moves, and plugins that count and that hear."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from clavitor_licensing.plugin import Licensing
from clavitor_licensing.service import LicenseService

from clavitor_host.api import CapsChange, Host, Plugin, Transaction, hookimpl
from clavitor_host.audit.tables import audit_log
from clavitor_host.plugins.frozen import BundleInfo, frozen_set
from clavitor_host.testing import FrozenPlugin, Harness, running_app, settings
from clavitor_host.testing.postgres import PostgresServer, missing
from clavitor_licensing_testing.support import GOOD, private_key, public_pem, signed

LICENSE = "/api/v1/admin/license"
USAGE = f"{LICENSE}/usage"
USERS = "/api/v1/admin/users"
METRICS = "/api/v1/prometheus"
NOW = 1_760_000_000
DAY = 86_400
FIVE_USERS = {"max_users": 5}


class FrozenClock:
    """The wall clock stands where a test puts it; everything else is real."""

    def __init__(self, now: int = NOW) -> None:
        self.now = float(now)
        self.ahead = 0.0

    def now_us(self) -> int:
        return int(self.now * 1_000_000)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Log:
    """What was logged, as JSON lines."""

    def __init__(self) -> None:
        self.sink = StringIO()

    @property
    def text(self) -> str:
        return self.sink.getvalue()

    def lines(self, *, level: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.text.splitlines()]
        return [
            line
            for line in found
            if level in (None, line["level"]) and all(line.get(name) == value for name, value in fields.items())
        ]


class Neighbour(Plugin):
    """A plugin that counts and has set what a test says, and hears of caps that change."""

    name = "neighbour"
    version = "1.0"

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.values: dict[str, dict[str, int]] = {}
        self.asked: list[Collection[str]] = []
        self.heard: list[CapsChange] = []
        self.broken = False

    @hookimpl
    async def cap_usage(self, tx: Transaction, limits: Collection[str]) -> Mapping[str, int]:
        if self.broken:
            raise RuntimeError("cannot count")
        self.asked.append(limits)
        return self.counts

    @hookimpl
    async def cap_values(self, tx: Transaction) -> Mapping[str, Mapping[str, int]]:
        return self.values

    @hookimpl
    async def caps_changed(self, change: CapsChange) -> None:
        self.heard.append(change)


def bundle() -> BundleInfo:
    """The community edition, licensing, and the neighbour."""
    stock = frozen_set()
    plugins = [plugin for plugin in stock.plugins if plugin.plugin.name not in ("licensing", "fleet")]
    added = (FrozenPlugin("clavitor-licensing", Licensing), FrozenPlugin("neighbour", Neighbour))
    return BundleInfo(stock.name, stock.edition, (*plugins, *added))


def token(*, key: int = 0, exp: int = NOW + 365 * DAY, grace: int = 30, iat: int = NOW - DAY, **fields: Any) -> str:
    """A signed token; `limits` and any other field as given."""
    payload = {**GOOD, "exp": exp, "gracePeriodDays": grace, "iat": iat, "limits": FIVE_USERS, **fields}
    return signed(payload, private_key(key))


def environ(**more: str) -> dict[str, str]:
    """The variables of a server that knows the vendor's key."""
    return {"CLAVITOR_TENANT_ID": "acme-corp", "CLAVITOR_LICENSE_PUBLIC_KEY": public_pem(private_key(0)), **more}


class Server:
    """A started app, with an ADMIN to ask it."""

    def __init__(self, harness: Harness, admin: httpx.AsyncClient) -> None:
        self.harness = harness
        self.admin = admin

    @property
    def host(self) -> Host:
        return self.harness.host

    @property
    def service(self) -> LicenseService:
        service = self.host.state["licensing"]
        assert isinstance(service, LicenseService)
        return service

    @property
    def neighbour(self) -> Neighbour:
        record = self.host.registry.get("neighbour")
        assert record is not None and isinstance(record.plugin, Neighbour)
        return record.plugin

    async def install(self, text: str, *, expect: int = 200, **query: str) -> Any:
        reply = await self.admin.post(LICENSE, json={"token": text}, params=query)
        assert reply.status_code == expect, reply.text
        return reply.json()

    async def get(self, path: str = LICENSE) -> Any:
        reply = await self.admin.get(path)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def state(self) -> str:
        state = (await self.get())["state"]
        assert isinstance(state, str)
        return state

    async def create_user(self, name: str) -> httpx.Response:
        return await self.admin.post(USERS, json={"name": name, "role": "VIEWER"})

    async def tick(self) -> None:
        """What every process does once a minute."""
        await self.service.tick()
        await self.service.teller.settled()

    async def heard(self) -> list[tuple[str, str]]:
        """The broadcasts since the last call: reason and state."""
        await self.service.teller.settled()
        heard = [(change.reason, change.state) for change in self.neighbour.heard]
        self.neighbour.heard.clear()
        return heard

    async def audit(self, action: str | None = None) -> list[dict[str, Any]]:
        """The payloads of the LICENSE rows, oldest first; with no action also what was done."""
        await self.service.teller.settled()
        query = sa.select(audit_log).where(audit_log.c.category == "LICENSE").order_by(audit_log.c.id)
        rows = [dict(row) for row in await self.host.db.fetch_all(query)]
        if action is None:
            return [{"action": row["action"], "actor": row["actor"], **json.loads(row["payload"])} for row in rows]
        return [json.loads(row["payload"]) for row in rows if row["action"] == action]

    async def metrics(self) -> dict[str, float]:
        """The license metrics by series."""
        text = (await self.host.metrics.render()).decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("clavitor_license")]
        return {name.removeprefix("clavitor_license_"): float(value) for name, _, value in lines}


Start = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def servers(folder: Path, url: str, clock: FrozenClock) -> AsyncIterator[Start]:
    """Give `start(**environ)`; each call is one more process of the deployment, as far as memory goes.

    `start(stop=server)` ends that one first. boot_id: of a server, to be another worker of its start. node: the data
    folder, and so the node, by its name.
    """
    async with AsyncExitStack() as stack:
        open_stacks: dict[int, AsyncExitStack] = {}

        async def start(
            *,
            stop: Server | None = None,
            variables: dict[str, str] | None = None,
            boot_id: str | None = None,
            node: str = "data",
            **more: str,
        ) -> Server:
            if stop is not None:
                await open_stacks.pop(id(stop)).aclose()
            given = {"CLAVITOR_DATABASE_URL": url, **(environ() if variables is None else variables), **more}
            made = bundle()
            own = await stack.enter_async_context(AsyncExitStack())
            app = running_app(settings(folder / node, made, given), made, clock=clock, boot_id=boot_id)
            harness = await own.enter_async_context(app)
            server = Server(harness, await _admin(harness))
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
