"""A real server with the fleet, and what an agent needs there."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_fleet_testing.program import ENVIRON, PROGRAM

from clavitor_host.client import AgentClient
from clavitor_host.testing.process import ServerProcess


@dataclass
class Place:
    """An environment with an app, and a token with which agents register there. `admin` asks as ADMIN."""

    server: ServerProcess
    admin: httpx.AsyncClient
    environment_id: str
    app_id: str
    token: str

    def agent(self, instance_id: str = "one", *, server: ServerProcess | None = None, **more: Any) -> AgentClient:
        """Return an agent that has not registered yet."""
        url = (server or self.server).url
        return AgentClient(url, self.token, app_id=self.app_id, instance_id=instance_id, version="1.0", **more)

    async def write(self, entry_id: str, data: str = "AAAA") -> None:
        """Write an entry."""
        body = {"encrypted_data": data, "environment_id": self.environment_id}
        assert (await self.admin.put(f"/api/entries/{entry_id}", json=body)).status_code in (200, 201)

    async def command(self, agent_id: str, type: str) -> str:
        """Send a command; return its id."""
        reply = await self.admin.post(f"/api/v1/agents/{agent_id}/commands", json={"type": type})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[ServerProcess]:
    """A server that keeps its port when it is started again."""
    config = "[plugins.fleet]\nheartbeat_interval = 1\n"
    with ServerProcess(tmp_path, program=PROGRAM, environ=ENVIRON, config=config, bind=f"127.0.0.1:{port}") as started:
        yield started


@pytest.fixture
async def place(server: ServerProcess) -> AsyncIterator[Place]:
    async with httpx.AsyncClient(base_url=server.url, headers=server.authorization) as admin:

        async def post(path: str, body: Any) -> Any:
            reply = await admin.post(f"/api/v1/{path}", json=body)
            assert reply.status_code == 201, reply.text
            return reply.json()

        environment = (await post("environments", {"name": "production"}))["id"]
        app = (await post("apps", {"name": "shop", "environment_id": environment}))["id"]
        token = {"name": "nodes", "kind": "agent", "environment_id": environment}
        yield Place(server, admin, environment, app, (await post("admin/tokens", token))["token"])
