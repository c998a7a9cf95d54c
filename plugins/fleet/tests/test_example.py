"""The whole of it once, against a real server process: two agents on their event streams, a deployment that runs when
both are there, a secret that reaches both at once, and an alert whose webhook is signed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_fleet_testing.receiver import LOOPBACK, Receiver

from clavitor_host.client import AgentClient, Command, EntryChanged, Event, Resync
from clavitor_host.testing.postgres import PostgresServer, missing
from clavitor_host.testing.process import ServerProcess

SECRET = "a-secret-that-both-ends-know"


class Operator:
    """Somebody with a token of the server."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = httpx.AsyncClient(base_url=server.url, headers=server.authorization, timeout=30)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await self.client.post(f"/api/v1/{path}", json=body)
        assert reply.status_code == 201, reply.text
        made: dict[str, Any] = reply.json()
        return made

    async def get(self, path: str) -> dict[str, Any]:
        reply = await self.client.get(f"/api/v1/{path}")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found


async def _next(events: Any) -> Event:
    async with asyncio.timeout(20):
        event: Event = await anext(events)
        return event


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_two_agents_a_deployment_and_a_signed_alert(tmp_path: Path, kind: str) -> None:
    if kind == "sqlite":
        await _story(tmp_path, None)
        return
    reason = missing()
    if reason:
        pytest.skip(reason)
    async with PostgresServer.shared().database() as url:
        await _story(tmp_path, url)


async def _story(folder: Path, database_url: str | None) -> None:
    receiver = Receiver()
    await receiver.start()
    environ = {"CLAVITOR_FLEET_OUTBOUND_ALLOW": LOOPBACK}
    server = ServerProcess(folder, database_url=database_url, environ=environ)
    try:
        await asyncio.to_thread(server.start)
        await _act(server, receiver)
    finally:
        await asyncio.to_thread(server.end)
        await receiver.stop()


async def _act(server: ServerProcess, receiver: Receiver) -> None:
    operator = Operator(server)
    environment = (await operator.post("environments", {"name": "production"}))["id"]
    app = (await operator.post("apps", {"environment_id": environment, "name": "shop"}))["id"]
    size = {"replicas": 2, "cpu_millis": 500, "memory_mb": 256}
    deployment = await operator.post("deployments", {"app_id": app, **size})
    assert deployment["status"] == "STARTING"
    token = {"name": "shop agents", "kind": "agent", "environment_id": environment}
    registration = (await operator.post("admin/tokens", token))["token"]

    def agent(number: int) -> AgentClient:
        return AgentClient(server.url, registration, app_id=app, instance_id=f"shop-{number}", version="1.0")

    async with agent(1) as one:
        assert (await operator.get(f"deployments/{deployment['id']}"))["status"] == "STARTING"
        async with agent(2) as two:
            running = await operator.get(f"deployments/{deployment['id']}")
            assert (running["status"], running["ready_replicas"]) == ("RUNNING", 2)
            assert one.deployment_id == two.deployment_id == deployment["id"]
            streams = [one.events(), two.events()]
            assert [type(await _next(stream)) for stream in streams] == [Resync, Resync]
            await _a_secret_reaches_both(operator, environment, [one, two], streams)
            await _a_command_reaches_its_agent_alone(operator, one, streams)
            await _an_alert_fires(operator, app, one, receiver)
    await operator.client.aclose()


async def _a_secret_reaches_both(
    operator: Operator, environment: str, agents: list[AgentClient], streams: list[Any]
) -> None:
    body = {"encrypted_data": "c2VjcmV0", "environment_id": environment}
    assert (await operator.client.put("/api/entries/db-password", json=body)).status_code == 201
    committed = time.monotonic()
    for stream in streams:
        event = await _next(stream)
        assert isinstance(event, EntryChanged)
        assert (event.entry_id, event.deleted) == ("db-password", False)
    assert time.monotonic() - committed < 5  # a busy machine; the streams' own tests say how quick it is
    assert [(await agent.entry("db-password")).encrypted_data for agent in agents] == ["c2VjcmV0"] * 2


async def _a_command_reaches_its_agent_alone(operator: Operator, agent: AgentClient, streams: list[Any]) -> None:
    sent = await operator.post(f"agents/{agent.id}/commands", {"type": "reload", "payload": {"what": "secrets"}})
    event = await _next(streams[0])
    assert isinstance(event, Command)
    assert (event.id, event.type, event.payload) == (sent["id"], "reload", {"what": "secrets"})
    await agent.acknowledge(event)
    (command,) = (await operator.get(f"agents/{agent.id}/commands"))["commands"]
    assert command["status"] == "DONE"


async def _an_alert_fires(operator: Operator, app: str, agent: AgentClient, receiver: Receiver) -> None:
    hook = {"name": "pager", "kind": "webhook", "url": receiver.url, "secret": SECRET}
    connection = (await operator.post("outbound-connections", hook))["id"]
    rule = {
        "name": "queue too long",
        "app_id": app,
        "metric": "queue.depth",
        "aggregation": "max",
        "comparison": "gt",
        "threshold": 10,
        "window": 300,
        "for": 0,
        "severity": "critical",
        "outbound_connection_id": connection,
    }
    made = await operator.post("alert-rules", rule)
    agent.report("metrics", {"name": "queue.depth", "value": 42.0})
    (request,) = await receiver.wait(1)
    assert request.headers["x-clavitor-event"] == request.json["event"] == "alert.firing"
    assert (request.json["rule"]["id"], request.json["value"]) == (made["id"], 42.0)
    assert request.signed_with(SECRET)
    assert not request.signed_with("another-secret-altogether")
    assert SECRET not in str((await operator.client.get(f"/api/v1/outbound-connections/{connection}")).json())
