"""What an operator hears of agents: metrics and log lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from clavitor_fleet.agents.jobs import sweep_stale
from clavitor_fleet_testing.agents import register
from clavitor_fleet_testing.server import Server, Start
from clavitor_licensing_testing.server import Log
from loguru import logger

from clavitor_host import log

INTERVAL = 30
STALE = "Agents have missed their heartbeats and are STALE"
AGAIN = "A known agent was registered again"
TWIN = "A LIVE agent was registered again just after it was registered: do two processes use its instance_id?"


@pytest.fixture
def logged() -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    collected = Log()
    log.setup("INFO", json_lines=True, sink=collected.sink)
    yield collected
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()


async def gauges(fleet: Server) -> dict[str, float]:
    """Return what the metrics say of agents and replicas."""
    text = (await fleet.host.metrics.render()).decode()
    lines = [
        line.split()
        for line in text.splitlines()
        if line.startswith(("clavitor_fleet_agents{", "clavitor_fleet_replicas{"))
    ]
    return {name.split('"')[1]: float(value) for name, value in lines}


async def test_metrics_tell_how_many_agents_live_and_how_many_replicas_are_there(fleet: Server) -> None:
    assert await gauges(fleet) == {"LIVE": 0, "STALE": 0, "wanted": 0, "ready": 0}
    environment = await fleet.environment()
    first, second = await fleet.app(environment, "first"), await fleet.app(environment, "second")

    async def deploy(app: str, replicas: int) -> Any:
        body = {"app_id": app, "replicas": replicas, "cpu_millis": 1, "memory_mb": 1}
        return await fleet.post("deployments", body)

    small, _, ended = await deploy(first, 1), await deploy(second, 3), await deploy(second, 7)
    await fleet.post(f"deployments/{ended['id']}/stop", expect=200)
    for number in range(2):  # one more than the deployment wants: it makes up for no other's
        await register(fleet, first, f"a-{number}", deployment_id=small["id"])
    fleet.clock.now += 2 * INTERVAL
    await register(fleet, second, "b")
    gone = await register(fleet, second, "gone")
    await fleet.delete(f"agents/{gone.id}")
    assert await gauges(fleet) == {"LIVE": 3, "STALE": 0, "wanted": 4, "ready": 2}
    fleet.clock.now += 2 * INTERVAL
    assert await gauges(fleet) == {"LIVE": 1, "STALE": 2, "wanted": 4, "ready": 1}


async def test_a_sweep_tells_once_who_became_stale(quick_start: Start, logged: Log) -> None:
    fleet = await quick_start()
    app = await fleet.app(await fleet.environment())
    agents = {(await register(fleet, app, f"agent-{number}")).id for number in range(7)}
    fleet.clock.now += 4 * INTERVAL
    await sweep_stale(fleet.fleet)
    await sweep_stale(fleet.fleet)
    (line,) = logged.lines(message=STALE)
    assert (line["level"], line["count"]) == ("WARNING", 7)
    named = line["agents"].split(", ")
    assert len(named) == 5
    assert {one.partition(" (")[2].rstrip(")") for one in named} < agents


async def test_a_known_agent_that_registers_is_told(quick_start: Start, logged: Log) -> None:
    fleet = await quick_start()
    app = await fleet.app(await fleet.environment())
    agent = await register(fleet, app, "one")
    fleet.clock.now += INTERVAL
    await register(fleet, app, "one", expect=200)
    fleet.clock.now += 4 * INTERVAL
    await register(fleet, app, "one", expect=200)
    told = [(line["level"], line["agent"], line["instance_id"], line["was"]) for line in logged.lines(message=AGAIN)]
    assert told == [("INFO", agent.id, "one", "LIVE"), ("INFO", agent.id, "one", "STALE")]
    assert logged.lines(message=TWIN) == []


async def test_two_that_take_each_others_place_are_told_once_a_minute(quick_start: Start, logged: Log) -> None:
    fleet = await quick_start()
    app = await fleet.app(await fleet.environment())
    agent = await register(fleet, app, "one")
    for _ in range(5):
        fleet.clock.now += 1
        await register(fleet, app, "one", expect=200)
    (line,) = logged.lines(message=TWIN)
    assert (line["level"], line["agent"], line["instance_id"]) == ("WARNING", agent.id, "one")
    fleet.clock.ahead += 61
    last = await register(fleet, app, "one", expect=200)
    assert len(logged.lines(message=TWIN)) == 2
    fleet.clock.ahead += 61
    body = {"app_id": app, "instance_id": "one", "version": "1"}
    assert (await last.client.post("/api/v1/agents/register", json=body)).status_code == 200  # the agent itself
    assert len(logged.lines(message=TWIN)) == 2
