"""The vault's own tests, unchanged, against the built artifacts as running processes.

Every test of `tests/vault` runs here that is not marked `in_process`. The fixtures it asks for have the same names
and meaning as in `tests/conftest.py`; here they lead to a process, over a real socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from clavitor_host.testing.postgres import missing
from tests.bundles import places
from tests.bundles.places import Built, Place, Visitor

VAULT = Path("tests", "vault")
PLACES = [("community", "sqlite"), ("community", "postgresql"), ("commercial", "sqlite")]
SHARED = places.shared_tests(VAULT)
FIXTURES = {"client", "client_for", "writer", "admin"}
AT_LEAST = 75
"""Tests that run at every place. It grows with the suite; that it falls means that something is left out."""

globals().update(SHARED)


@pytest.fixture(scope="module", params=PLACES, ids="-".join)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, built: Built) -> Iterator[Place]:
    """One server for all tests of an artifact."""
    name, kind = request.param
    if kind == "postgresql" and (reason := missing()):
        pytest.skip(reason)
    with places.running(tmp_path_factory.mktemp(name), places.program(name, built), kind) as started:
        yield started
        assert "Traceback" not in started.server.log


@pytest.fixture
async def visitor(place: Place) -> AsyncIterator[Visitor]:
    """The place as one test finds it. The test fails when the process did not answer it."""
    found = await asyncio.to_thread(place.visitor)
    async with found.stack:
        yield found
    assert found.answered > 0


@pytest.fixture
async def client(visitor: Visitor) -> httpx.AsyncClient:
    return await visitor.client()


@pytest.fixture
def client_for(visitor: Visitor) -> Callable[..., Awaitable[httpx.AsyncClient]]:
    return visitor.client_for


@pytest.fixture
async def writer(visitor: Visitor) -> httpx.AsyncClient:
    return await visitor.client_for("OPERATOR")


@pytest.fixture
async def admin(visitor: Visitor) -> httpx.AsyncClient:
    return await visitor.client_for("ADMIN")


def test_nothing_of_the_suite_is_left_out_unseen() -> None:
    for name, function in SHARED.items():
        inside = places.fixtures_of(function) - FIXTURES
        assert not inside, f"{name} asks for {', '.join(inside)}: mark it {places.IN_PROCESS}, or ask over HTTP"
        assert globals()[name] is function, f"{name} is hidden by another of its name"
    assert sum(places.cases_of(function) for function in SHARED.values()) >= AT_LEAST
