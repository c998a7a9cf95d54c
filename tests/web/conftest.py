"""A running app and visitors with a browser's habits: cookies, forms, redirects."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from clavitor_host.testing import Harness
from tests.web.visitor import PASSWORD, Visitor


@pytest.fixture
async def vault_url(tmp_path: Path, empty_vaults: Callable[[str], str]) -> str:
    """Pages run no SQL of their own: one kind of database is enough."""
    template = await asyncio.to_thread(empty_vaults, "sqlite")
    return f"sqlite:///{shutil.copy(template, tmp_path)}"


@pytest.fixture
async def visitors() -> AsyncIterator[Callable[[Harness], Visitor]]:
    """Makes strangers: `visitors(harness)`."""
    made: list[Visitor] = []

    def make(harness: Harness) -> Visitor:
        made.append(Visitor(harness))
        return made[-1]

    yield make
    for visitor in made:
        await visitor.client.aclose()


@pytest.fixture
def stranger(harness: Harness, visitors: Callable[[Harness], Visitor]) -> Visitor:
    """Somebody who is not logged in."""
    return visitors(harness)


@pytest.fixture
def log_in(harness: Harness, visitors: Callable[[Harness], Visitor]) -> Callable[..., Awaitable[Visitor]]:
    """Makes a user and logs them in: `await log_in("bob", "OPERATOR")`."""

    async def make(name: str, role: str) -> Visitor:
        await create_user(harness.host, name=name, role=Role(role), password=PASSWORD, requested_by=SYSTEM)
        visitor = visitors(harness)
        await visitor.log_in(name)
        return visitor

    return make


@pytest.fixture
async def ada(log_in: Callable[..., Awaitable[Visitor]]) -> Visitor:
    """An ADMIN who is logged in."""
    return await log_in("ada", "ADMIN")
