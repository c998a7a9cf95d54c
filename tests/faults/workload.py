"""Clients that write as fast as they are let, and a ledger of what they were promised.

Every client owns entries nobody else writes, so what it last got a 2xx for must be there; all of them also write
a few shared entries, where the highest rev wins. A request that got no answer may or may not have been done: it is
in doubt, and the state afterwards must be explained by what was promised or by exactly one request in doubt.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from clavitor_host.audit.tables import audit_log
from clavitor_host.audit.verify import verify as verify_audit
from clavitor_host.storage.database import Database
from clavitor_host.testing.process import ServerProcess

Writes = dict[str, str | None]
"""Entry id to its blob, None for a delete: what one request asks for."""

LOST = (ConnectionError, EOFError, asyncio.IncompleteReadError, OSError)
IN_DOUBT_CODES = ("storage_outcome_unknown",)


class Wire:
    """One keep-alive HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self._writer = writer
        self._token = token

    @classmethod
    async def open(cls, address: tuple[str, int], token: str) -> Self:
        return cls(*await asyncio.open_connection(*address, limit=2**24), token)

    def send(self, method: str, path: str, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {self._token}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + data)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        raw = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, json.loads(raw) if raw else None

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        self.send(method, path, body)
        await self._writer.drain()
        return await self.answer()

    async def close(self) -> None:
        self._writer.close()
        with suppress(*LOST):
            await self._writer.wait_closed()


@dataclass
class Ledger:
    """What was promised, and what is in doubt."""

    promised: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    doubts: list[Writes] = field(default_factory=list)
    batches: list[Writes] = field(default_factory=list)  # in doubt, less what was written again since
    acknowledged: dict[int, str] = field(default_factory=dict)  # rev → entry id, over the whole test
    statuses: Counter[Any] = field(default_factory=Counter)

    def promise(self, revs: dict[str, int], writes: Writes) -> None:
        for entry_id, rev in revs.items():
            assert rev not in self.acknowledged, f"rev {rev} was given out twice"
            self.acknowledged[rev] = entry_id
            if rev > self.promised.get(entry_id, (0, None))[0]:
                self.promised[entry_id] = (rev, writes[entry_id])
        self._written_again(writes)

    def doubt(self, writes: Writes) -> None:
        self._written_again(writes)
        self.doubts.append(writes)
        self.batches.append(dict(writes))

    def _written_again(self, writes: Writes) -> None:
        for batch in self.batches:
            for entry_id in writes:
                batch.pop(entry_id, None)


class Load:
    """`clients` tasks that write until they are told to stop or their connection breaks."""

    def __init__(self, ledger: Ledger, seed: int, *, clients: int = 6, again: bool = False) -> None:
        self.ledger = ledger
        self.again = again
        """Whether a client whose connection broke comes back (to another worker, or when the server is back)."""
        self.written = 0
        self._clients = clients
        self._random = random.Random(seed)
        self._stop = False
        self._progress = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def on(self, *servers: ServerProcess) -> AsyncIterator[Self]:
        """Run over the servers in turn; at the end wait until every client has its last answer."""
        self._tasks = [
            asyncio.create_task(self._client(number, servers[number % len(servers)])) for number in range(self._clients)
        ]
        try:
            yield self
        finally:
            self._stop = True
            done, late = await asyncio.wait(self._tasks, timeout=30)
            for task in late:
                task.cancel()
            assert not late, "a client got no answer within 30 s"
            for task in done:
                task.result()

    async def wrote(self, count: int, within: float = 30.0) -> None:
        """Wait for `count` more acknowledged requests."""
        target = self.written + count
        async with asyncio.timeout(within), self._progress:
            await self._progress.wait_for(lambda: self.written >= target)

    async def _client(self, number: int, server: ServerProcess) -> None:
        while not self._stop:
            try:
                wire = await Wire.open(server.address, server.token)
            except OSError:
                if not self.again:
                    return
                await asyncio.sleep(0.02)
                continue
            try:
                while not self._stop:
                    await self._one(number, wire)
            except LOST:
                if not self.again:
                    return
            finally:
                await wire.close()

    async def _one(self, number: int, wire: Wire) -> None:
        method, path, body, writes = self._choose(number)
        try:
            status, headers, answer = await wire.request(method, path, body)
        except BaseException:
            self.ledger.doubt(writes)
            self.ledger.statuses["no answer"] += 1
            raise
        self.ledger.statuses[status] += 1
        if 200 <= status < 300:
            if path.endswith("batch"):
                revs = {result["entry_id"]: result["rev"] for result in answer["results"]}
                ordered = [result["rev"] for result in answer["results"]]
                assert ordered == list(range(ordered[0], ordered[0] + len(writes))), "a batch has revs in a row"
            else:
                revs = {next(iter(writes)): int(headers["x-clavitor-rev"])}
            assert revs.keys() == writes.keys()
            self.ledger.promise(revs, writes)
            self.written += 1
            async with self._progress:
                self._progress.notify_all()
        elif status == 503:
            self.ledger.statuses[answer["code"]] += 1
            assert headers["content-type"] == "application/problem+json"
            if answer["code"] in IN_DOUBT_CODES:
                self.ledger.doubt(writes)
            if answer["code"] == "storage_outcome_unknown":
                assert "retry-after" not in headers  # whether to try again is the client's to find out
            else:
                assert int(headers["retry-after"]) > 0
            if headers.get("connection") == "close":
                raise ConnectionResetError
            await asyncio.sleep(0.02)
        else:
            assert status == 404, (status, answer)  # a delete of what does not live
            assert method == "DELETE"

    def _choose(self, number: int) -> tuple[str, str, Any, Writes]:
        kind = self._random.random()
        if kind < 0.25:
            ids = self._random.sample(range(12), self._random.randint(2, 8))
            writes: Writes = {f"c{number}-{n}": self._blob() for n in ids}
            operations = [{"operation": "put", "entry_id": e, "encrypted_data": d} for e, d in writes.items()]
            return "POST", "/api/entries/batch", {"operations": operations}, writes
        shared = self._random.random() < 0.2
        entry_id = f"shared-{self._random.randrange(4)}" if shared else f"c{number}-{self._random.randrange(12)}"
        if kind < 0.4:
            return "DELETE", f"/api/entries/{entry_id}", None, {entry_id: None}
        blob = self._blob()
        return "PUT", f"/api/entries/{entry_id}", {"encrypted_data": blob}, {entry_id: blob}

    def _blob(self) -> str:
        return base64.b64encode(self._random.randbytes(self._random.choice((12, 300, 5000)))).decode()


async def check(server: ServerProcess, ledger: Ledger) -> None:
    """Compare everything the server has with the ledger, and settle what was in doubt."""
    state: dict[str, tuple[int, str | None]] = {}
    revs: list[int] = []
    wire = await Wire.open(server.address, server.token)
    try:
        since, more = 0, True
        while more:
            status, _, page = await wire.request("GET", f"/api/changes?since={since}&limit=100&include=data")
            assert status == 200, page
            for change in page["changes"]:
                revs.append(change["rev"])
                state[change["entry_id"]] = (change["rev"], None if change["deleted"] else change["encrypted_data"])
            since, more = page["next_since"], page["more"]
    finally:
        await wire.close()
    assert revs == sorted(set(revs)), "revs are strictly increasing"
    for entry_id, (rev, blob) in ledger.promised.items():
        found = state.get(entry_id)
        assert found is not None, f"{entry_id} has gone; it was acknowledged at rev {rev}"
        if found[0] == rev:
            assert found[1] == blob, f"{entry_id} has other bytes than were acknowledged"
        else:
            assert found[0] > rev, f"{entry_id} is back at rev {found[0]}; rev {rev} was acknowledged"
            assert found[1] in _doubtful(ledger, entry_id), f"{entry_id} has a state that nobody asked for"
    for entry_id, (_, blob) in state.items():
        if entry_id not in ledger.promised:
            assert blob in _doubtful(ledger, entry_id), f"{entry_id} has a state that nobody asked for"
    for batch in ledger.batches:
        done = [state.get(entry_id, (0, None))[1] == blob for entry_id, blob in batch.items()]
        assert all(done) or not any(done), "half of a batch is there"
    ledger.batches.clear()
    ledger.doubts.clear()
    ledger.promised = state


def _doubtful(ledger: Ledger, entry_id: str) -> list[str | None]:
    return [writes[entry_id] for writes in ledger.doubts if entry_id in writes]


async def check_history(url: str, ledger: Ledger) -> None:
    """Check the audit chain, and that it tells every rev once, in order, those that were acknowledged among them."""
    db = Database(url)
    await db.open()
    try:
        result = await verify_audit(db)
        assert result.ok, result
        query = sa.select(audit_log.c.entry_id, audit_log.c.payload).where(audit_log.c.category == "VAULT")
        rows = await db.fetch_all(query.order_by(audit_log.c.id))
        head = await db.fetch_val("SELECT rev FROM vault_head WHERE id = 1")
    finally:
        await db.close()
    told = [(json.loads(row["payload"])["rev"], row["entry_id"]) for row in rows]
    assert [rev for rev, _ in told] == list(range(1, head + 1)), "every rev once, in order"
    entries = dict(told)
    for rev, entry_id in ledger.acknowledged.items():
        assert entries[rev] == entry_id, f"rev {rev} was acknowledged for {entry_id}"


def check_integrity(file: Path) -> None:
    """Have SQLite look at its whole file."""
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()


async def eventually(condition: Callable[[], Awaitable[bool]], within: float = 30.0, every: float = 0.05) -> None:
    """Wait for something that tells nobody when it happens."""
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(every)
