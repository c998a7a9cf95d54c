"""Alert rules over what agents have really reported, with the default store on each database."""

from __future__ import annotations

from typing import Any

import pytest
from clavitor_fleet.alerts import jobs
from clavitor_fleet.alerts.evaluator import Evaluator
from clavitor_fleet.telemetry.store import Origin
from clavitor_fleet_testing.server import Server, Start


@pytest.fixture
async def server(start: Start, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(jobs, "PERIOD", 3600.0)  # a test evaluates when it wants to
    return await start()


async def look(server: Server, *, after: float = 15) -> dict[str, str]:
    """Let time pass, look at all rules, and return the state of each."""
    server.clock.now += after
    await Evaluator(server.host, server.fleet.telemetry, server.fleet.metrics).evaluate()
    return {rule["name"]: rule["state"] for rule in (await server.get("alert-rules"))["alert_rules"]}


async def report(server: Server, origin: Origin, *values: float) -> None:
    now = server.clock.now_us()
    rows = [{"ts": now + n, "name": "load", "value": value, "labels": None} for n, value in enumerate(values)]
    await server.fleet.telemetry.insert("metrics", origin, rows)


async def test_rules_fire_over_what_was_reported(server: Server) -> None:
    environment, other = await server.environment("a"), await server.environment("b")
    mine = Origin(environment, await server.app(environment), "agent-1")
    theirs = Origin(other, await server.app(other), "agent-2")
    common: dict[str, Any] = {"metric": "load", "comparison": "gt", "window": 60, "on_no_data": "resolve"}
    for name, more in (
        ("avg", {"threshold": 3, "aggregation": "avg", "app_id": mine.app_id}),
        ("max", {"threshold": 8, "aggregation": "max", "environment_id": environment}),
        ("min", {"threshold": 1, "aggregation": "min", "environment_id": environment}),
        ("sum", {"threshold": 100, "aggregation": "sum"}),
        ("last", {"threshold": 3, "aggregation": "last", "environment_id": environment}),
        ("count", {"threshold": 2, "aggregation": "count", "environment_id": other}),
        ("silence", {"threshold": 1, "aggregation": "count", "app_id": theirs.app_id, "comparison": "lt"}),
    ):
        await server.post("alert-rules", {**common, "name": name, **more})
    quiet = {"name": "quiet", "event": "started", "comparison": "eq", "threshold": 0}
    await server.post("alert-rules", quiet)
    await report(server, mine, 1.0, 9.0, 2.0)
    await report(server, theirs, 100.0)
    assert await look(server) == {
        "avg": "firing",
        "max": "firing",
        "min": "ok",
        "sum": "firing",
        "last": "ok",
        "count": "ok",
        "silence": "ok",
        "quiet": "firing",
    }

    async def firing(*, after: float) -> set[str]:
        return {name for name, state in (await look(server, after=after)).items() if state == "firing"}

    event = {"ts": server.clock.now_us(), "type": "started", "message": None, "attributes": None}
    await server.fleet.telemetry.insert("agent_events", mine, [event])
    await report(server, mine, 50.0)
    assert await firing(after=50) == {"avg", "max", "min", "last", "silence"}  # only the last row is in the window
    assert await firing(after=120) == {"avg", "max", "min", "last", "silence"}  # nothing says that it is over
    assert await firing(after=60) == {"silence"}


async def happen(server: Server, origin: Origin, ts: int) -> None:
    event = {"ts": ts, "type": "crash", "message": None, "attributes": None}
    await server.fleet.telemetry.insert("agent_events", origin, [event])


async def test_no_event_is_missed_between_two_looks_also_of_two_processes(start: Start, server: Server) -> None:
    environment = await server.environment()
    origin = Origin(environment, await server.app(environment), "agent-1")
    crash = {"name": "crash", "event": "crash", "comparison": "gt", "threshold": 0, "window": 15}
    await server.post("alert-rules", crash)
    assert await look(server) == {"crash": "ok"}
    await happen(server, origin, server.clock.now_us() + 10_000)
    assert await look(server, after=15.1) == {"crash": "firing"}
    (alert,) = (await server.get("alerts"))["alerts"]
    assert (alert["kind"], alert["metric"], alert["event"]) == ("event", None, "crash")
    assert await look(server, after=18) == {"crash": "ok"}
    await happen(server, origin, server.clock.now_us() - 1_000_000)  # it was on its way at that look
    server = await start(stop=server)  # which takes its time
    assert await look(server, after=240) == {"crash": "firing"}
    assert await look(server, after=18) == {"crash": "ok"}
    await happen(server, origin, server.clock.now_us() + 10_000)
    assert await look(server, after=301) == {"crash": "ok"}  # far too late to tell


async def test_hundreds_of_rules_are_evaluated_by_few_statements(server: Server) -> None:
    environment = await server.environment()
    origin = Origin(environment, await server.app(environment), "agent-1")
    await report(server, origin, 6.0)
    for number in range(210):
        body = {"name": f"rule {number}", "metric": "load", "comparison": "gt", "threshold": 5 if number % 2 else 7}
        await server.post("alert-rules", body)
    asked = 0
    fetch_all = server.host.db.fetch_all

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        return await fetch_all(*arguments, **options)

    server.host.db.fetch_all = counted  # type: ignore[method-assign]
    server.clock.now += 15
    await Evaluator(server.host, server.fleet.telemetry, server.fleet.metrics).evaluate()
    server.host.db.fetch_all = fetch_all  # type: ignore[method-assign]
    assert asked <= 10
    assert len((await server.get("alerts", limit=1000))["alerts"]) == 105
