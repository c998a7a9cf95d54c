"""A fresh database for each test, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from clavitor_host.storage.database import Database, sqlite_url
from clavitor_host.storage.tables import leases
from clavitor_host.testing.postgres import PostgresServer, missing

metadata = sa.MetaData()

_things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(100), unique=True, nullable=False),
    sa.Column("number", sa.BigInteger),
    sa.Column("payload", sa.JSON),
    sa.Column("flag", sa.Boolean, default=False),
    sa.Column("data", sa.LargeBinary),
    sa.Column("parent", sa.ForeignKey("things.id")),
)


@pytest.fixture(scope="session")
def postgres_server() -> PostgresServer:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    return PostgresServer.shared()


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    async with postgres_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "vault.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    async with server.database() as fresh:
        yield fresh


@pytest.fixture
async def empty(url: str) -> AsyncIterator[Database]:
    """An open database without tables."""
    db = Database(url, pool_size=5)
    await db.open()
    yield db
    await db.close()


@pytest.fixture
def things() -> sa.Table:
    return _things


@pytest.fixture
async def database(empty: Database) -> Database:
    """An open database with the tables `things` and `leases`."""
    await empty.execute(sa.schema.CreateTable(_things))
    await empty.execute(sa.schema.CreateTable(leases))
    return empty
