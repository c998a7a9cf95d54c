"""Agents of the tests, and their event streams over a real socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx

from clavitor_fleet_testing.server import V1, Server
from clavitor_host.client.sse import EventParser

PATIENCE = 20.0
"""Seconds to wait for what must come."""


@dataclass
class Agent:
    """A registered agent. `client` shows its token."""

    server: Server
    id: str
    token: str
    client: httpx.AsyncClient

    @property
    def path(self) -> str:
        return f"{V1}/agents/{self.id}"

    async def heartbeat(self, **body: Any) -> httpx.Response:
        return await self.client.post(f"{self.path}/heartbeat", json=body)

    async def state(self) -> str:
        """Return LIVE, STALE or GONE, as an administrator sees it."""
        return str((await self.server.get(f"agents/{self.id}"))["state"])


async def register(server: Server, app_id: str, instance_id: str, *, expect: int = 201, **more: Any) -> Agent:
    """Register an agent as ADMIN."""
    body = {"app_id": app_id, "instance_id": instance_id, "version": "1.0", **more}
    made = await server.post("agents/register", body, expect=expect)
    return Agent(server, made["agent"]["id"], made["token"], await server.client(made["token"]))


class Listener:
    """One event stream of an agent, read straight from the ASGI application.

        async with Listener(agent) as listening:
            name, data = await listening.next()

    It is open once the server has said where it begins. `ids` has the id of every event, the first of them that place.
    """

    def __init__(self, agent: Agent, last_event_id: str = "") -> None:
        self.agent = agent
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ids: list[str] = []
        self.comments = 0
        self._sent = [(b"authorization", f"Bearer {agent.token}".encode())]
        if last_event_id:
            self._sent.append((b"last-event-id", last_event_id.encode()))
        self._events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self._parser = EventParser()
        self._gone = asyncio.Event()
        self._open = asyncio.Event()
        self._moved = asyncio.Event()
        self.reading = asyncio.Event()
        """Cleared: the client does not read."""
        self.reading.set()

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._listen())
        await asyncio.wait_for(self._open.wait(), PATIENCE)
        return self

    async def __aexit__(self, *args: object) -> None:
        self._gone.set()
        self.reading.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def last_id(self) -> str:
        """The last id: what `Last-Event-ID` would say."""
        return self.ids[-1]

    async def reaches(self, id: str) -> None:
        """Wait until the last id is this one."""
        while self.last_id != id:
            self._moved.clear()
            await self._moved.wait()

    async def next(self) -> tuple[str, Any]:
        """Return the name and the JSON of the next event."""
        event = await asyncio.wait_for(self._events.get(), PATIENCE)
        assert event is not None, "the stream has ended"
        return event

    async def ended(self) -> list[tuple[str, Any]]:
        """Wait for the end of the stream; return what came before it."""
        await asyncio.wait_for(self._task, PATIENCE)
        return self.waiting()

    def waiting(self) -> list[tuple[str, Any]]:
        """Return the events that have come and that nobody has taken."""
        found = [self._events.get_nowait() for _ in range(self._events.qsize())]
        return [event for event in found if event is not None]

    async def _listen(self) -> None:
        path = f"{self.agent.path}/events"
        scope = {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self._sent,
            "client": ("127.0.0.1", 50001),
            "server": ("127.0.0.1", 8400),
            "state": {},
            "extensions": {},
        }
        try:
            await self.agent.server.harness.web(scope, self._receive, self._take)  # type: ignore[arg-type]
        finally:
            self._open.set()
            self._events.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        if self.status == 0 and self._sent:
            self._sent = []
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        await self.reading.wait()
        body = message.get("body", b"")
        self.comments += body.endswith(b"\n:\n\n")
        if self.status != 200:
            return
        for event in self._parser.feed(body):
            self.ids.append(event.id)
            self._moved.set()
            if event.data:
                self._events.put_nowait((event.name, json.loads(event.data)))
            self._open.set()
