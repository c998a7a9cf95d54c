"""Fixtures shared by the host's tests: an app on each database, over each way of routing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from clavitor_host.host import Host
from clavitor_host.plugins.frozen import BundleInfo, frozen_set
from clavitor_host.testing import Harness, running_app, settings
from clavitor_host.testing.postgres import PostgresServer, missing


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


@pytest.fixture(params=["hot", "ordinary"])
def both_paths(request: pytest.FixtureRequest) -> str:
    """For tests of routes that may skip the framework: they run over both ways."""
    path: str = request.param
    return path


@pytest.fixture(scope="session")
def bundle() -> BundleInfo:
    """The plugins of an unbuilt checkout."""
    return frozen_set()


@pytest.fixture
async def harness(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path, bundle: BundleInfo
) -> AsyncIterator[Harness]:
    """A started community app."""
    hot = "both_paths" not in request.fixturenames or request.getfixturevalue("both_paths") == "hot"
    config = settings(tmp_path / "data", bundle, {"CLAVITOR_DATABASE_URL": database_url})
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
