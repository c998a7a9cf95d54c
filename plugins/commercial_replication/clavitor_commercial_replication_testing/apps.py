"""Two apps in one process, a primary and its backup, joined by a `Network`.

async with pair(tmp_path) as pops:
    await pops.primary.put("a", b"blob")
    await pops.settled()
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from clavitor_commercial.plugin import CommercialEdition
from clavitor_commercial_replication import digests, queue, state, tables
from clavitor_commercial_replication.models import Version
from clavitor_commercial_replication.plugin import CommercialReplication
from clavitor_commercial_replication.service import Replication, service_of

from clavitor_commercial_replication_testing.network import Network
from clavitor_host.api import Change, Clock, Host, Plugin, Write, WriteSet, entries
from clavitor_host.app import App, around, create_host
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.testing import FrozenPlugin, Harness, running, settings
from clavitor_host.testing.postgres import PostgresServer, missing

PRIMARY_URL = "http://127.0.0.1:8501"
BACKUP_URL = "http://127.0.0.1:8502"
SECRET = "0123456789abcdef0123456789abcdef"
PATIENCE = 30.0
"""Seconds to wait for what must come."""

_VARIABLE = "CLAVITOR_COMMERCIAL_REPLICATION_"


def bundle(*more: type[Plugin]) -> BundleInfo:
    """The commercial edition with replication, and with further plugins."""
    plugins = (
        FrozenPlugin("clavitor-commercial", CommercialEdition),
        FrozenPlugin("clavitor-commercial-replication", CommercialReplication),
        *(FrozenPlugin(plugin.name, plugin) for plugin in more),
    )
    return BundleInfo("clavitor-commercial", "commercial", plugins)


def primary_settings(**more: str) -> dict[str, str]:
    """The variables of a primary; keywords are keys of the plugin's table, "" takes one out."""
    given = {
        "role": "primary",
        "source_pop": "calgary-01",
        "backup_url": BACKUP_URL,
        "primary_location": PRIMARY_URL,
        "authorized_primaries": "zurich-01",
        "secret": SECRET,
        **more,
    }
    return {_VARIABLE + name.upper(): value for name, value in given.items()}


def backup_settings(**more: str) -> dict[str, str]:
    """The variables of a backup; keywords are keys of the plugin's table, "" takes one out."""
    given = {
        "role": "backup",
        "source_pop": "zurich-01",
        "backup_url": PRIMARY_URL,
        "primary_location": PRIMARY_URL,
        "authorized_primaries": "calgary-01",
        "secret": SECRET,
        **more,
    }
    return {_VARIABLE + name.upper(): value for name, value in given.items()}


@dataclass
class Pop(Harness):
    """A started app that takes part in replication."""

    @property
    def service(self) -> Replication:
        return service_of(self.host)

    async def put(self, entry_id: str, blob: bytes = b"blob", **more: Any) -> Change:
        """Create or replace an entry, as an acknowledged write."""
        return (await self.write(Write("put", entry_id, encoded(blob), **more)))[0]

    async def delete(self, entry_id: str) -> Change:
        return (await self.write(Write("delete", entry_id)))[0]

    async def write(self, *writes: Write) -> list[Change]:
        """Do writes all or none."""
        return list(await self.host.entries.write(WriteSet(writes, "test", "test")))

    async def entries(self) -> dict[str, dict[str, Any]]:
        """Return every entry and tombstone by id, without its local row id and what replication notes in it."""
        rows = await self.host.db.fetch_all(sa.select(entries))
        own = ("id", "replicated_at", "replication_dirty")
        return {row["entry_id"]: {key: row[key] for key in row if key not in own} for row in rows}

    async def versions(self) -> dict[str, Version]:
        """Return the rows of `replication_versions` by entry id."""
        rows = await self.host.db.fetch_all(sa.select(tables.versions))
        return {row["entry_id"]: Version(row["epoch"], row["rev"], row["digest"]) for row in rows}

    async def depth(self) -> int:
        return await queue.depth(self.host.db)

    async def check(self) -> None:
        """Assert what holds at any moment: versions are those of the entries, buckets those of the versions, and one
        row of the queue for each dirty entry (on a primary)."""
        async with self.host.db.snapshot() as tx:
            rows = {row["entry_id"]: row for row in await tx.fetch_all(sa.select(entries))}
            versions = {row["entry_id"]: row for row in await tx.fetch_all(sa.select(tables.versions))}
            queued = {row["entry_id"]: row for row in await tx.fetch_all(sa.select(tables.queue))}
            buckets = await state.buckets(tx)
            role = (await state.required(tx)).role
        assert {entry_id: row["rev"] for entry_id, row in rows.items()} == {
            entry_id: row["rev"] for entry_id, row in versions.items()
        }
        for entry_id, row in versions.items():
            data = rows[entry_id]["encrypted_data"]
            assert row["digest"] == digests.digest_of(entry_id, row["epoch"], row["rev"], data), entry_id
        whole = digests.combined(digests.NOTHING, [(key, row["digest"]) for key, row in versions.items()])
        assert digests.differing(buckets, whole) == []
        dirty = {entry_id: row["rev"] for entry_id, row in rows.items() if row["replication_dirty"]}
        if role != "backup":
            assert dirty == {entry_id: row["rev"] for entry_id, row in queued.items()}
        for entry_id, row in queued.items():
            assert row["raw_payload"] == rows[entry_id]["encrypted_data"], entry_id


@dataclass
class Pair:
    """A primary and its backup. `network` is between them; `restart` ends one and starts it again."""

    primary: Pop
    backup: Pop
    network: Network
    restart: Callable[[str], Awaitable[Pop]]
    """Takes "primary" or "backup"; with the same database."""

    async def settled(self) -> None:
        """Wait until nothing waits to be sent, and assert that both vaults are equal."""
        await until(self.sent)
        await self.assert_equal()

    async def assert_equal(self) -> None:
        """Assert that both have the same entries, tombstones and hashes."""
        assert await self.primary.entries() == await self.backup.entries()
        for pop in (self.primary, self.backup):
            await pop.check()
        ours, theirs = [await state.buckets(pop.host.db) for pop in (self.primary, self.backup)]
        assert digests.differing(ours, theirs) == []

    async def sent(self) -> bool:
        """Tell whether nothing waits to be sent."""
        return await self.primary.depth() == 0


def encoded(blob: bytes) -> str:
    """Return a blob as base64, as clients send it."""
    return base64.b64encode(blob).decode()


async def until(true: Callable[[], Awaitable[bool]], *, seconds: float = PATIENCE) -> None:
    """Wait until `true` says so. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


def routed(host: Host, network: httpx.AsyncBaseTransport) -> None:
    """Have every client of `host.outbound` go through `network`."""
    made = host.outbound.client

    def client(**options: Any) -> httpx.AsyncClient:
        options.pop("limits", None)
        options.pop("verify", None)
        return made(**{**options, "transport": network})

    host.outbound.client = client  # type: ignore[method-assign]


@asynccontextmanager
async def running_pop(
    folder: Path,
    environ: Mapping[str, str],
    *plugins: type[Plugin],
    network: Network | None = None,
    url: str | None = None,
    clock: Clock | None = None,
    prepare: Callable[[App], None] | None = None,
) -> AsyncIterator[Pop]:
    """Start one app with its data in `folder`. network: where its requests go, and where it is reached at `url`.

    prepare: called with the app before it starts.
    """
    made = bundle(*plugins)
    app = create_host(settings(folder, made, environ), made, clock=clock)
    if network is not None:
        routed(app.host, network)
    if prepare is not None:
        prepare(app)
    web = around(app)
    async with AsyncExitStack() as stack, running(web):
        if network is not None and url is not None:
            network.add(url, web)
        try:
            yield Pop(app, web, stack)
        finally:
            if network is not None and url is not None:
                network.remove(url)


@asynccontextmanager
async def pair(
    folder: Path,
    *plugins: type[Plugin],
    primary_url: str | None = None,
    backup_url: str | None = None,
    primary: Mapping[str, str] | None = None,
    backup: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Pair]:
    """Start a primary and its backup. primary_url, backup_url: databases, SQLite files in `folder` when not given.
    primary, backup: keys of the plugin's table (see `primary_settings`)."""
    network = Network()
    async with AsyncExitStack() as stack:
        own: dict[str, AsyncExitStack] = {}

        async def start(name: str) -> Pop:
            first = name == "primary"
            database = primary_url if first else backup_url
            environ = primary_settings(**(primary or {})) if first else backup_settings(**(backup or {}))
            environ["CLAVITOR_DATABASE_URL"] = database or f"sqlite:///{folder}/{name}.db"
            own[name] = await stack.enter_async_context(AsyncExitStack())
            url = PRIMARY_URL if first else BACKUP_URL
            running = running_pop(folder / name, environ, *plugins, network=network, url=url, clock=clock)
            return await own[name].enter_async_context(running)

        async def restart(name: str) -> Pop:
            await own.pop(name).aclose()
            pop = await start(name)
            setattr(pops, name, pop)
            return pop

        second = await start("backup")
        pops = Pair(await start("primary"), second, network, restart)
        yield pops


@asynccontextmanager
async def fresh_database(kind: str, folder: Path, name: str = "vault") -> AsyncIterator[str]:
    """Give the URL of an empty database, `sqlite` or `postgresql`. Skips the test where there is none."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/{name}.db"
        return
    reason = missing()
    if reason:
        pytest.skip(reason)
    async with PostgresServer.shared().database() as url:
        yield url
