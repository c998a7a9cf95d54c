"""Clients: they write to the primary, read at the backup, and remember what they were told."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.simulation.chance import stream
from tests.simulation.model import Write
from tests.simulation.pop import Answer, Crashed, Pop
from tests.simulation.schedule import BUSY_SECONDS

if TYPE_CHECKING:
    from tests.simulation.world import World

READ_EVERY = 1.0
ENVIRONMENTS = (None, "dev", "prod")


class Clients:
    """Everything clients do in a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.chance = stream(world.seed, "clients")
        self._left = world.plan.writes
        self.targets = [world.primary]
        """Where they write; with none, they wait."""

    async def more(self, writes: int) -> None:
        """Write some more."""
        for _ in range(writes):
            await asyncio.sleep(self.chance.random() * self._world.plan.hurry)
            await self._one(self.chance.choice(self.targets))

    async def work(self) -> None:
        """Write until all is written, or until the busy time is over."""
        await asyncio.gather(*(self._write_on() for _ in range(self._world.plan.clients)), self._read_on())

    async def _write_on(self) -> None:
        chance, world = self.chance, self._world
        while self._left > 0 and world.loop.now < BUSY_SECONDS:
            await asyncio.sleep(chance.random() * world.plan.hurry if chance.random() < 0.9 else chance.random() * 3.0)
            if not self.targets:
                continue
            target = chance.choice(self.targets)
            if chance.random() < 0.1:
                await self._batch(target)
            else:
                await self._one(target)

    def _begin(self, pop: Pop) -> tuple[Write, dict[str, Any]]:
        """Return a write and its operation in the API's terms."""
        chance, world = self.chance, self._world
        self._left -= 1
        entry_id = chance.choice(world.plan.ids)
        data = None
        if chance.random() < 0.75:
            data = base64.b64encode(f"{entry_id} {len(world.model.writes)}".encode()).decode()
        write = world.model.begin(pop.label, entry_id, data, world.loop.now)
        if data is None:
            return write, {"operation": "delete", "entry_id": entry_id}
        body: dict[str, Any] = {"operation": "put", "entry_id": entry_id, "encrypted_data": data}
        if chance.random() < 0.3:
            body["environment_id"] = chance.choice(ENVIRONMENTS)
        return write, body

    async def _one(self, pop: Pop) -> None:
        write, body = self._begin(pop)
        del body["operation"], body["entry_id"]
        method, path = "DELETE" if write.data is None else "PUT", f"/api/entries/{write.entry_id}"
        if write.data is not None and self.chance.random() < 0.1:
            method, path, body["entry_id"] = "POST", "/api/entries", write.entry_id
        answer = await self._ask(pop, method, path, body if write.data is not None else None)
        if answer is not None and answer[0] in (200, 201, 204):
            meta = json.loads(answer[2]) if answer[2] else {}
            self._end(write, answer[0], int(_header(answer, b"x-clavitor-rev") or 0), meta.get("updated_at"))
        else:
            self._end(write, 0 if answer is None else answer[0])

    async def _batch(self, pop: Pop) -> None:
        begun = [self._begin(pop) for _ in range(self.chance.randint(2, 4))]
        answer = await self._ask(pop, "POST", "/api/entries/batch", {"operations": [body for _, body in begun]})
        if answer is not None and answer[0] == 200:
            for (write, _), result in zip(begun, json.loads(answer[2])["results"], strict=True):
                self._end(write, 200, result["rev"])
        else:
            for write, _ in begun:
                self._end(write, 0 if answer is None else answer[0])

    def _end(self, write: Write, status: int, rev: int = 0, updated_at: int | None = None) -> None:
        write.ended, write.rev, write.updated_at = self._world.loop.now, rev, updated_at
        if 200 <= status < 300:
            write.outcome = "done"
        else:
            write.outcome = "refused" if 400 <= status < 500 else "unknown"
        self._world.note(f"client {write} -> {status} {write.outcome} {rev} {updated_at or ''}")
        if status not in (0, 200, 201, 204, 404, 409, 503):
            self._world.fail(f"{write} was answered {status}")

    async def _read_on(self) -> None:
        world = self._world
        while world.loop.now < BUSY_SECONDS - READ_EVERY:
            await asyncio.sleep(self.chance.random() * 2 * READ_EVERY)
            await self._read(world.primary, world.backup, self.chance.choice(world.plan.ids))

    async def _read(self, primary: Pop, pop: Pop, entry_id: str) -> int:
        """Read at the backup with a token of the primary's, and check what it says; return the status."""
        world, chance = self._world, self.chance
        newest = world.model.newest(entry_id, primary.label)
        wanted = 0
        headers = []
        if newest is not None and chance.random() < 0.5:
            wanted = newest.rev
            headers.append((b"x-min-rev", b"%d" % wanted))
        answer = await self._ask(
            pop, "GET", f"/api/entries/{entry_id}", None, headers, token=world.tokens[primary.name]
        )
        if answer is None:
            return 0
        status = answer[0]
        as_of = _header(answer, b"x-clavitor-as-of")
        world.note(f"read {pop.name} {entry_id} min {wanted} -> {status} as of {as_of}")
        if status not in (200, 404):
            if status not in (401, 412, 503):
                world.fail(f"reading {entry_id} at the backup was answered {status}")
            return status
        body = json.loads(answer[2]) if status == 200 else {}
        rev, data = body.get("rev", 0), body.get("encrypted_data")
        if data not in world.model.known_values(entry_id) | ({None} if not rev else set()):
            world.fail(f"the backup has {entry_id} as {data}, which nobody wrote")
        claims = world.claims_hold and not world.network.rejected  # entries in quarantine do not count for what it says
        if not claims or world.look(pop).role != "backup" or pop is not world.backup:
            return status  # what a new primary never had is lost
        reached = self._reached(primary, entry_id, wanted, as_of)
        if status == 200 and reached is not None and rev < reached.rev:
            world.fail(f"the backup has {entry_id} at rev {rev}, but says it has {reached} of rev {reached.rev}")
        if status == 404 and reached is not None and not self._may_be_deleted(entry_id, reached):
            world.fail(f"the backup has no {entry_id}, but says it has {reached} of rev {reached.rev}")
        return status

    def _reached(self, primary: Pop, entry_id: str, wanted: int, as_of: str | None) -> Write | None:
        """Return the newest write of an entry that the backup says it has."""
        world = self._world
        until = 0
        if as_of is not None and world.plan.steady:
            at = datetime.strptime(as_of, "%Y-%m-%dT%H:%M:%S.%fZ")
            until = round((at - datetime(1970, 1, 1)).total_seconds() * 1_000_000)
        there = [
            one
            for one in world.model.of(entry_id)
            if one.outcome == "done"
            and one.pop == primary.label
            and (one.rev <= wanted or (one.updated_at is not None and one.updated_at < until))
        ]
        return max(there, key=lambda one: one.rev, default=None)

    def _may_be_deleted(self, entry_id: str, reached: Write) -> bool:
        return any(
            one.data is None and (one.outcome != "done" or one.rev >= reached.rev)
            for one in self._world.model.of(entry_id)
        )

    async def check_reads(self, primary: Pop, backup: Pop) -> None:
        """In the end the backup serves what the primary has, to the primary's own clients, and takes no writes."""
        world = self._world
        for entry_id in world.plan.ids[:4]:
            status = await self._read(primary, backup, entry_id)
            if status not in (200, 404) and not (status == 401 and world.network.rejected):
                world.fail(f"in the end {entry_id} cannot be read at the backup: {status}")
        answer = await self._ask(backup, "PUT", "/api/entries/e0", {"encrypted_data": "YQ=="})
        if answer is None or answer[0] != 503 or _header(answer, b"x-primary-location") is None:
            world.fail(f"a write at the backup was answered {answer and answer[0]}")

    async def _ask(
        self,
        pop: Pop,
        method: str,
        path: str,
        body: Any,
        headers: list[tuple[bytes, bytes]] | None = None,
        token: str = "",
    ) -> Answer | None:
        """Return the answer, None when the process ended before there was one."""
        bearer = token or self._world.tokens[pop.name]
        given = [(b"authorization", f"Bearer {bearer}".encode()), *(headers or [])]
        content = b""
        if body is not None:
            content = json.dumps(body).encode()
            given.append((b"content-type", b"application/json"))
        try:
            return await pop.ask(method, path, content, given)
        except Crashed:
            return None


def _header(answer: Answer, name: bytes) -> str | None:
    return next((value.decode() for key, value in answer[1] if key.lower() == name), None)
