"""An agent towards the server: registered, with a token, and registered again when the token has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from clavitor_host.client.errors import CapReached, ServerUnavailable, Unauthorized
from clavitor_host.client.lines import Outage, log
from clavitor_host.client.twins import Twins
from clavitor_host.client.values import Artifact

if TYPE_CHECKING:
    from clavitor_host.client.connection import Connection

AGENTS = "/api/v1/agents"


class Session:
    """`wanted`: what is registered, as the server takes it."""

    def __init__(self, connection: Connection, registration_token: str, wanted: Mapping[str, Any]) -> None:
        self.id = ""
        self.environment_id = ""
        self.deployment_id: str | None = None
        self.artifact: Artifact | None = None
        """What its deployment runs, as it was when this agent registered; `artifact_content` has the bytes."""
        self.heartbeat_interval = 0.0
        self._connection = connection
        self._registration_token = registration_token
        self._wanted = wanted
        self._token = ""
        self._registering = asyncio.Lock()
        self._twins = Twins()
        self._seat = Outage("The agent has no seat, it asks again: %s", "The agent has its seat again")
        self._left = False

    async def register(self) -> None:
        """Register, or register again. Raises `CapReached` when the license allows no more agents."""
        with self._noting_seat():
            made = await self._connection.request(
                "POST", f"{AGENTS}/register", token=self._registration_token, body=self._wanted
            )
        agent, runs = made["agent"], made["artifact"]
        self.id, self.environment_id = agent["id"], agent["environment_id"]
        self.deployment_id = agent["deployment_id"]
        self.artifact = None if runs is None else Artifact(runs["id"], runs["version"], runs["sha256"])
        self._token = made["token"]
        self.heartbeat_interval = float(made["heartbeat_interval"])
        log.info("Registered %s as agent %s", agent["instance_id"], self.id)

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        """Ask as this agent; once more after registering again, when the token has ended."""
        token = self._token
        try:
            return await self._connection.request(method, path, token=token, **options)
        except Unauthorized:
            if self._left:
                raise
            await self._register_again(token)
            return await self._connection.request(method, path, token=self._token, **options)

    async def _register_again(self, ended: str) -> None:
        async with self._registering:
            if self._token == ended and not self._left:
                pause = self._twins.token_ended(ended, str(self._wanted["instance_id"]), self.heartbeat_interval)
                await asyncio.sleep(pause)
                with suppress(ServerUnavailable):
                    await self.register()

    @contextmanager
    def _noting_seat(self) -> Iterator[None]:
        """Log when a seat is lost, and when it is had again."""
        try:
            yield
        except CapReached as error:
            if self.id:
                self._seat.begin(error.detail)
            raise
        self._seat.end()
