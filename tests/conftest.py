"""Fixtures shared by the host's tests: an app on each database, over each way of routing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from clavitor_host.app import create_host
from clavitor_host.host import Host
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.testing import Harness, running_app, settings
from clavitor_host.testing.postgres import PostgresServer, missing
from tests.minimal import minimal_set


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of the suite."""
    config.addinivalue_line("markers", "in_process: looks inside the app; not run against a server process")


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A fresh, empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/vault.db"
        return
    reason = missing()
    if reason:
        pytest.skip(reason)
    async with PostgresServer.shared().database() as url:
        yield url


@pytest.fixture(scope="session")
def empty_vaults(tmp_path_factory: pytest.TempPathFactory, bundle: BundleInfo) -> Callable[[str], str]:
    """Makes one migrated, empty vault of each kind a session; tests start from copies of it.

    Returns what is copied: a file name for SQLite, a database name for PostgreSQL.
    """
    folder = tmp_path_factory.mktemp("vaults")

    async def migrated(url: str) -> None:
        app = create_host(settings(folder, bundle, {"CLAVITOR_DATABASE_URL": url}), bundle)
        await app.start(offline=True)
        await app.stop()

    async def sqlite() -> str:
        await migrated(f"sqlite:///{folder}/vault.db")
        return f"{folder}/vault.db"

    async def postgresql() -> str:
        server, name = PostgresServer.shared(), f"vault_{uuid4().hex}"
        await server.run(f'CREATE DATABASE "{name}" TEMPLATE template0')
        await migrated(server.database_url(name))
        return name

    made = {"sqlite": sqlite, "postgresql": postgresql}
    return cache(lambda kind: asyncio.run(made[kind]()))


@pytest.fixture(params=["sqlite", "postgresql"])
async def vault_url(
    request: pytest.FixtureRequest, tmp_path: Path, empty_vaults: Callable[[str], str]
) -> AsyncIterator[str]:
    """A fresh, migrated vault of each kind."""
    if request.param == "postgresql" and (reason := missing()):
        pytest.skip(reason)
    template = await asyncio.to_thread(empty_vaults, request.param)
    if request.param == "sqlite":
        yield f"sqlite:///{shutil.copy(template, tmp_path)}"
        return
    async with PostgresServer.shared().database(template) as url:
        yield url


@pytest.fixture(params=["hot", "ordinary"])
def both_paths(request: pytest.FixtureRequest) -> str:
    """For tests of routes that may skip the framework: they run over both ways."""
    path: str = request.param
    return path


@pytest.fixture(scope="session")
def bundle() -> BundleInfo:
    """The host and the community edition alone."""
    return minimal_set()


@pytest.fixture
async def harness(
    request: pytest.FixtureRequest, vault_url: str, tmp_path: Path, bundle: BundleInfo
) -> AsyncIterator[Harness]:
    """A started community app."""
    hot = "both_paths" not in request.fixturenames or request.getfixturevalue("both_paths") == "hot"
    config = settings(tmp_path / "data", bundle, {"CLAVITOR_DATABASE_URL": vault_url})
    async with running_app(config, bundle, hot_routes=hot) as started:
        yield started


@pytest.fixture
def host(harness: Harness) -> Host:
    """The host of the started app."""
    return harness.host


@pytest.fixture
async def client(harness: Harness) -> httpx.AsyncClient:
    """A client without a credential."""
    return await harness.client()


@pytest.fixture
def client_for(harness: Harness) -> Callable[..., Awaitable[httpx.AsyncClient]]:
    """Makes a client with a token of a role: `await client_for("VIEWER", scope="read")`."""
    return harness.client_for


@pytest.fixture
async def writer(harness: Harness) -> httpx.AsyncClient:
    """A client that may write entries."""
    return await harness.client_for("OPERATOR")


@pytest.fixture
async def admin(harness: Harness) -> httpx.AsyncClient:
    """A client that may do everything."""
    return await harness.client_for("ADMIN")
