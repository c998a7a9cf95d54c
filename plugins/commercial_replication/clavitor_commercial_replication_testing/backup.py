"""A backup POP alone, and what a primary would say to it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_commercial_replication import state, wire
from clavitor_commercial_replication.config import ReplicationConfig
from clavitor_commercial_replication.models import Batch, Item, Peer, State
from clavitor_commercial_replication.peers import Secrets
from pydantic import SecretStr

from clavitor_commercial_replication_testing.apps import SECRET, Pop, backup_settings, running_pop
from clavitor_host.api import Clock, Plugin

PRIMARY = "calgary-01"
BACKUP = "zurich-01"
STREAM = "stream-of-calgary"
T0 = 1_743_556_800
"""Seconds since the epoch: when the entries of the tests were written."""


def blob(text: str = "blob") -> str:
    """Return a blob as it is stored."""
    return base64.b64encode(text.encode()).decode()


def bearer(pop: str, now_us: int, *, secret: str = SECRET) -> str:
    """Return the value of an Authorization header."""
    return "Bearer " + Secrets(ReplicationConfig(secret=SecretStr(secret))).bearer(pop, now_us)


def item(entry_id: str, rev: int, text: str | None = "blob", *, epoch: int = 1, **more: Any) -> Item:
    """Return a write as the primary sends it. text: None for a delete."""
    data = None if text is None else blob(text)
    at = T0 * 1_000_000 + rev
    values: dict[str, Any] = {
        "entry_id": entry_id,
        "operation": "delete" if data is None else "update",
        "encrypted_data": data,
        "timestamp": T0,
        "epoch": epoch,
        "rev": rev,
        "sha256": None if data is None else hashlib.sha256(data.encode()).hexdigest(),
        "created_at": T0 * 1_000_000,
        "updated_at": at,
        **more,
    }
    return Item(**values)


def plain(entry_id: str, text: str | None = "blob", *, at: int = T0) -> Item:
    """Return a write in the seed's plain format. at: seconds since the epoch."""
    data = None if text is None else blob(text)
    return Item(entry_id, "delete" if data is None else "create", data, at)


def batch(*items: Item, epoch: int | None = 1, **more: Any) -> Batch:
    """Return a request of the primary. epoch: None for the seed's plain format."""
    numbers = {} if epoch is None else {"epoch": epoch, "stream_id": STREAM, "batch_id": "batch-1"}
    return Batch(**{"source_pop": PRIMARY, "items": list(items), **numbers, **more})


@dataclass
class Backup(Pop):
    """A started backup."""

    async def send(self, sent: Batch | bytes | dict[str, Any], **headers: str | None) -> httpx.Response:
        """Send a request as the primary. Headers may be replaced, or left out (None)."""
        given: dict[str, str | None] = {
            "authorization": bearer(PRIMARY, self.host.clock.now_us()),
            "content-type": "application/json",
            **headers,
        }
        kept = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
        client = await self.client()
        if isinstance(sent, dict):
            return await client.post(wire.PATH, json=sent, headers=kept)
        content = sent if isinstance(sent, bytes) else wire.encode(sent)
        return await client.post(wire.PATH, content=content, headers=kept)

    async def applied(self, *items: Item, **more: Any) -> dict[str, Any]:
        """Send a batch that is taken, and return the answer."""
        return await self.answer(batch(*items, **more))

    async def answer(self, sent: Batch) -> dict[str, Any]:
        """Return the answer to a batch that is taken."""
        response = await self.send(sent)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def state(self) -> State:
        return await state.required(self.host.db)

    async def peer(self) -> Peer:
        return await state.peer(self.host.db)

    async def audited(self, category: str = "REPLICATION") -> list[dict[str, Any]]:
        """Return the audit rows of a category, oldest first."""
        rows = await self.host.db.fetch_all(
            "SELECT * FROM audit_log WHERE category = :category ORDER BY id", {"category": category}
        )
        return [dict(row) for row in rows]


@asynccontextmanager
async def running_backup(
    folder: Path, *plugins: type[Plugin], database: str | None = None, clock: Clock | None = None, **keys: str
) -> AsyncIterator[Backup]:
    """Start a backup. database: its URL; keys: of the plugin's table (see `backup_settings`)."""
    environ = backup_settings(**keys)
    if database is not None:
        environ["CLAVITOR_DATABASE_URL"] = database
    async with running_pop(folder, environ, *plugins, clock=clock) as pop:
        yield Backup(pop.app, pop.web, pop.stack)


@pytest.fixture
async def backup(tmp_path: Path, database_url: str) -> AsyncIterator[Backup]:
    """A started backup on each kind of database."""
    async with running_backup(tmp_path / "data", database=database_url) as made:
        yield made


@pytest.fixture
async def quick_backup(tmp_path: Path) -> AsyncIterator[Backup]:
    """A started backup on SQLite: for what no database can change."""
    async with running_backup(tmp_path / "data") as made:
        yield made
