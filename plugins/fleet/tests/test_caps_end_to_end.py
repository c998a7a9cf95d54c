"""Every limit of a license, hit through REST, in every state of the license, on both databases (seed sections 4, 10).

Up to the cap everything is created; the next one is refused with the status, body and message that the seed fixes, with
an audit row of its own, and the counter grows by one.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from clavitor_fleet_testing.server import V1, Server, Start
from clavitor_licensing_testing.server import DAY, NOW, environ, token

DEFAULT = {
    "max_environments": 1,
    "max_apps": 3,
    "max_agents": 5,
    "max_users": 3,
    "max_outbound_connections": 1,
    "max_alert_rules": 2,
    "max_total_cpu_millis": 2000,
    "max_total_memory_mb": 2048,
    "max_total_replicas": 5,
    "max_execution_retention_days": 1,
    "max_log_retention_days": 1,
    "max_metric_retention_days": 1,
    "max_jar_retention_count": 3,
}
"""The default tier (seed section 3.2), written down anew."""
LICENSED = {
    "max_environments": 2,
    "max_apps": 4,
    "max_agents": 2,
    "max_users": 4,
    "max_outbound_connections": 3,
    "max_alert_rules": 1,
    "max_total_cpu_millis": 1500,
    "max_total_memory_mb": 3000,
    "max_total_replicas": 3,
    "max_execution_retention_days": 10,
    "max_log_retention_days": 20,
    "max_metric_retention_days": 30,
    "max_jar_retention_count": 6,
}
EXPIRES, GRACE_DAYS = NOW + 10 * DAY, 7
PUBLIC_URL = "https://93.184.215.14/hook"
"""By number: nothing is looked up, and nothing is sent."""


class State(NamedTuple):
    """How the license stands, and the message of a refusal. after: days that pass after it was installed."""

    name: str
    caps: dict[str, int]
    message: str
    after: int = 0


STATES = [
    State(
        "ABSENT",
        DEFAULT,
        "No license installed: default tier applies (cap = {cap} for {limit}). Install a license to raise this.",
    ),
    State(
        "ACTIVE",
        LICENSED,
        "License cap reached: {limit} = {cap}. Current usage is {current}. Contact your vendor to raise the cap.",
    ),
    State(
        "GRACE",
        LICENSED,
        "License expired 2 days ago and is in its grace period (ends in 5 days). Cap unchanged at {cap}. "
        "Renew before grace ends.",
        after=12,
    ),
    State(
        "EXPIRED",
        DEFAULT,
        "License expired 9 days ago: system reverted to default tier (cap = {cap} for {limit}). "
        "Current usage is {current}. Renew the license to lift the cap.",
        after=19,
    ),
    State(
        "INVALID",
        DEFAULT,
        "License rejected (License signature verification failed): default tier applies (cap = {cap} for {limit}). "
        "Fix the license to raise this.",
    ),
]


class Fleet:
    """A server in a state of the license; one environment and one app are there when a limit needs them."""

    def __init__(self, server: Server, state: State) -> None:
        self.server = server
        self.state = state
        self.environment_id = ""
        self.app_id = ""

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        reply = await self.server.admin.post(f"{V1}/{path}", json=body)
        return reply.status_code, reply.json()

    async def put(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        reply = await self.server.admin.put(f"{V1}/{path}", json=body)
        return reply.status_code, reply.json()

    async def refusals(self) -> dict[str, float]:
        """The counter, by limit."""
        text = (await self.server.host.metrics.render()).decode()
        pattern = r'^clavitor_license_cap_rejections_total\{limit="(\w+)"\} (\S+)$'
        return {limit: float(value) for limit, value in re.findall(pattern, text, re.MULTILINE)}

    async def audited(self, limit: str) -> list[dict[str, Any]]:
        rows = await self.server.audit(category="LICENSE", action="cap_exceeded", limit="1000")
        return [row["payload"] for row in rows if row["payload"]["limit"] == limit]


@pytest.fixture(params=STATES, ids=lambda state: state.name)
async def fleet(request: pytest.FixtureRequest, start: Start) -> AsyncIterator[Fleet]:
    state: State = request.param
    server = await start(licensing=True, **environ())
    if state.name != "ABSENT":
        good = token(exp=EXPIRES, grace=GRACE_DAYS, limits=LICENSED)
        assert (await server.post("admin/license", {"token": good}, expect=200))["state"] == "ACTIVE"
    server.clock.now += state.after * DAY
    if state.name == "INVALID":
        refused = await server.post("admin/license", {"token": token(key=1, limits=LICENSED)}, expect=400)
        assert refused["state"] == "INVALID"
    assert (await server.get("admin/license"))["state"] == state.name
    yield Fleet(server, state)


async def fill(fleet: Fleet, limit: str, create: Callable[[int], Awaitable[tuple[int, dict[str, Any]]]]) -> None:
    """Create up to the cap; the next one is refused with a 403."""
    cap = fleet.state.caps[limit]
    used = {row["key"]: row["current"] for row in (await fleet.server.get("admin/license/usage"))["limits"]}[limit]
    for number in range(used, cap):
        status, body = await create(number)
        assert status == 201, (limit, number, body)
    await refused(fleet, limit, await_status=403, current=cap, attempt=lambda: create(cap))


async def refused(
    fleet: Fleet,
    limit: str,
    *,
    await_status: int,
    current: int,
    attempt: Callable[[], Awaitable[tuple[int, dict[str, Any]]]],
) -> None:
    """What is tried is refused as the seed says."""
    before, rows = await fleet.refusals(), await fleet.audited(limit)
    status, body = await attempt()
    assert status == await_status, (limit, body)
    await check_refusal(fleet, limit, body, current)
    assert body["status"] == status
    assert body["code"] == "license_cap_reached"
    await check_noted(fleet, limit, current, before, rows)


async def check_refusal(fleet: Fleet, limit: str, body: dict[str, Any], current: int) -> None:
    cap = fleet.state.caps[limit]
    assert {key: body[key] for key in ("error", "limit", "current", "cap", "state", "message")} == {
        "error": "license cap reached",
        "limit": limit,
        "current": current,
        "cap": cap,
        "state": fleet.state.name,
        "message": fleet.state.message.format(limit=limit, cap=cap, current=current),
    }


async def check_noted(
    fleet: Fleet, limit: str, current: int, before: dict[str, float], rows: list[dict[str, Any]]
) -> None:
    """One more audit row, and the counter up by one."""
    noted = await fleet.audited(limit)
    assert len(noted) == len(rows) + 1, limit
    cap, state = fleet.state.caps[limit], fleet.state.name
    assert noted[0] == {"limit": limit, "current": current, "cap": cap, "requestedBy": "admin", "state": state}
    after = await fleet.refusals()
    assert after[limit] == before.get(limit, 0) + 1
    assert {key: value for key, value in after.items() if key != limit} == {
        key: value for key, value in before.items() if key != limit
    }


async def test_every_limit_is_enforced_at_its_call_site(fleet: Fleet) -> None:
    await fill(fleet, "max_environments", lambda n: fleet.post("environments", {"name": f"env-{n}"}))
    fleet.environment_id = (await fleet.server.get("environments"))["environments"][0]["id"]
    await _apps(fleet)
    await _agents(fleet)
    await fill(fleet, "max_users", lambda n: fleet.post("admin/users", {"name": f"user-{n}", "role": "VIEWER"}))
    await fill(
        fleet,
        "max_outbound_connections",
        lambda n: fleet.post("outbound-connections", {"name": f"hook-{n}", "kind": "webhook", "url": PUBLIC_URL}),
    )
    await fill(fleet, "max_alert_rules", lambda n: fleet.post("alert-rules", _rule(n)))
    for limit, field in (
        ("max_total_cpu_millis", "cpu_millis"),
        ("max_total_memory_mb", "memory_mb"),
        ("max_total_replicas", "replicas"),
    ):
        await _compute(fleet, limit, field)
    for column in ("execution", "log", "metric"):
        limit, field = f"max_{column}_retention_days", f"{column}_retention_days"
        await _value(fleet, limit, f"environments/{fleet.environment_id}", field)
    jars = f"admin/environments/{fleet.environment_id}/jar-retention"
    await _value(fleet, "max_jar_retention_count", jars, "jar_retention_count")
    usage = (await fleet.server.get("admin/license/usage"))["limits"]
    compute = {"max_total_cpu_millis", "max_total_memory_mb", "max_total_replicas"}
    assert {row["key"]: row["current"] for row in usage if row["key"] not in compute} == {
        limit: cap for limit, cap in fleet.state.caps.items() if limit not in compute
    }


async def _apps(fleet: Fleet) -> None:
    body = {"environment_id": fleet.environment_id}
    await fill(fleet, "max_apps", lambda n: fleet.post("apps", {**body, "name": f"app-{n}"}))
    fleet.app_id = (await fleet.server.get("apps"))["apps"][0]["id"]


async def _agents(fleet: Fleet) -> None:
    """One that is refused is not registered: it is nowhere, and has no token."""
    body = {"app_id": fleet.app_id, "version": "1.0"}
    await fill(fleet, "max_agents", lambda n: fleet.post("agents/register", {**body, "instance_id": f"i-{n}"}))
    agents = (await fleet.server.get("agents"))["agents"]
    assert len(agents) == fleet.state.caps["max_agents"]
    tokens = (await fleet.server.get("admin/tokens"))["tokens"]
    assert len([one for one in tokens if one["kind"] == "agent"]) == len(agents)


def _rule(number: int) -> dict[str, Any]:
    return {
        "name": f"rule-{number}",
        "metric": "queue.depth",
        "comparison": "gt",
        "threshold": 10,
        "window": 60,
        "for": 0,
        "severity": "warning",
    }


async def _compute(fleet: Fleet, limit: str, field: str) -> None:
    """Deployments up to the cap; the next one is made as FAILED, holds nothing, and says why."""
    cap = fleet.state.caps[limit]
    small = {"app_id": fleet.app_id, "replicas": 1, "cpu_millis": 1, "memory_mb": 1}
    status, running = await fleet.post("deployments", {**small, field: cap})
    assert (status, running["status"]) == (201, "STARTING"), running
    before, rows = await fleet.refusals(), await fleet.audited(limit)
    status, failed = await fleet.post("deployments", small)
    assert (status, failed["status"]) == (201, "FAILED"), failed
    await check_refusal(fleet, limit, failed["failure"], cap)
    await check_noted(fleet, limit, cap, before, rows)
    used = {row["key"]: row["current"] for row in (await fleet.server.get("admin/license/usage"))["limits"]}
    assert used[limit] == cap
    await fleet.server.post(f"deployments/{running['id']}/stop", expect=200)
    status, again = await fleet.post("deployments", small)
    assert (status, again["status"]) == (201, "STARTING"), again
    await fleet.server.post(f"deployments/{again['id']}/stop", expect=200)


async def _value(fleet: Fleet, limit: str, path: str, field: str) -> None:
    """A value at the cap is taken, one above it is a 422; lowering it always passes."""
    cap = fleet.state.caps[limit]
    status, body = await fleet.put(path, {field: cap})
    assert (status, body[field]) == (200, cap)
    await refused(fleet, limit, await_status=422, current=cap + 1, attempt=lambda: fleet.put(path, {field: cap + 1}))
    assert (await fleet.put(path, {field: 1}))[1][field] == 1
    assert (await fleet.put(path, {field: cap}))[0] == 200
