"""The community app on each database, with a clock to move and a plugin whose policies a test sets."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host.audit.tables import audit_log
from clavitor_host.errors import CapExceeded
from clavitor_host.hookspecs import hookimpl
from clavitor_host.host import Host
from clavitor_host.http import Request
from clavitor_host.identity import tables, tokens, users
from clavitor_host.identity.models import SYSTEM, Identity, Resource, Role, User
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.models import FrozenPlugin, Plugin
from clavitor_host.storage.database import Transaction
from clavitor_host.storage.tables import metadata
from clavitor_host.testing import Harness, running_app, settings
from tests.minimal import minimal_set

URL = "https://vault.test"
PASSWORD = "correct horse battery"
ADDRESS = "203.0.113.5"
Browser = Callable[..., Awaitable[httpx.AsyncClient]]


class ShiftedClock:
    """The real clocks, moved on by what a test says."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + int(self.ahead * 1_000_000)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Policies(Plugin):
    """A plugin whose answers a test sets."""

    name = "policies"
    version = "1.0"

    def __init__(self) -> None:
        self.max_users: int | None = None
        self.refuse: Callable[[Identity, str, Resource], None] | None = None
        self.who: Callable[[Request], Identity | None] | None = None

    @hookimpl
    async def assert_within_cap(self, tx: Transaction, limit: str, delta: int) -> None:
        if limit == "max_users" and self.max_users is not None:
            await tx.lock("caps")
            current = await users.count_users(tx)
            if current + delta > self.max_users:
                raise CapExceeded(limit=limit, current=current, cap=self.max_users, state="ABSENT", message="No more.")

    @hookimpl
    async def authorize(self, identity: Identity, action: str, resource: Resource) -> None:
        if self.refuse is not None:
            self.refuse(identity, action, resource)

    @hookimpl
    async def authenticate(self, request: Request) -> Identity | None:
        return None if self.who is None else self.who(request)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def variables() -> dict[str, str]:
    """Configuration variables that a test module may override."""
    return {}


@pytest.fixture(scope="session")
def bundle() -> BundleInfo:
    """The community edition, and a plugin whose answers a test sets."""
    stock = minimal_set()
    return dataclasses.replace(stock, plugins=(*stock.plugins, FrozenPlugin("policies", Policies)))


StartApp = Callable[[], Awaitable[Harness]]


@pytest.fixture
async def start_app(
    database_url: str, tmp_path: Path, bundle: BundleInfo, clock: ShiftedClock, variables: dict[str, str]
) -> AsyncIterator[StartApp]:
    """Start an app; one more is another process of the same deployment, as far as memory goes."""
    given = {"CLAVITOR_DATABASE_URL": database_url, "CLAVITOR_PUBLIC_URL": URL, **variables}
    async with AsyncExitStack() as stack:

        async def start() -> Harness:
            config = settings(tmp_path / "data", bundle, given)
            return await stack.enter_async_context(running_app(config, bundle, clock=clock))

        yield start


@pytest.fixture
async def harness(start_app: StartApp) -> Harness:
    return await start_app()


@pytest.fixture
async def second_host(harness: Harness, start_app: StartApp) -> Host:
    """Another process of the same deployment."""
    return (await start_app()).host


@pytest.fixture
def policies(host: Host) -> Policies:
    record = host.registry.get("policies")
    assert record is not None and isinstance(record.plugin, Policies)
    return record.plugin


@pytest.fixture
async def browser(harness: Harness) -> AsyncIterator[Browser]:
    """Return `browser(token=…, address=…)`: a client over HTTPS, with cookies of its own."""
    async with AsyncExitStack() as stack:

        async def make(
            *, token: str | None = None, address: str = ADDRESS, app: Harness = harness
        ) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app=app.web, client=(address, 4711))  # type: ignore[arg-type]
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url=URL, headers=headers)
            )

        yield make


@pytest.fixture
async def client(browser: Browser) -> httpx.AsyncClient:
    """A browser that is not logged in."""
    return await browser()


async def make_user(
    host: Host, name: str, *, role: Role = Role.VIEWER, password: str | None = None, **about: Any
) -> User:
    """Make a user as the command line does."""
    return await users.create_user(host, name=name, role=role, password=password, requested_by=SYSTEM, **about)


async def log_in(client: httpx.AsyncClient, name: str, password: str = PASSWORD) -> dict[str, Any]:
    """Log a browser in; from then on it sends its CSRF token."""
    reply = await client.post("/api/v1/login", json={"name": name, "password": password})
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    client.headers["X-CSRF-Token"] = body["csrf_token"]
    return body


async def token_of(host: Host, user: User, **about: Any) -> str:
    """Make a token of a user and return it."""
    _, value = await tokens.create_token(host, name="test", user_id=user.id, requested_by=SYSTEM, **about)
    return value


async def audit_rows(host: Host, action: str | None = None) -> list[dict[str, Any]]:
    """Return the audit log's rows, oldest first."""
    query = sa.select(audit_log).order_by(audit_log.c.id)
    if action is not None:
        query = query.where(audit_log.c.action == action)
    return [dict(row) for row in await host.db.fetch_all(query)]


async def everything_stored(host: Host) -> str:
    """Return all text of identity's tables and of the audit log."""
    parts = []
    for table in (*(t for t in metadata.sorted_tables if t.name in vars(tables)), audit_log):
        parts += [str(dict(row)) for row in await host.db.fetch_all(sa.select(table))]
    return "\n".join(parts)
