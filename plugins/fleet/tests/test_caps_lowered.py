"""A license that allows less than there is: warned of once a limit, nothing is deleted, nothing new, less is fine."""

from __future__ import annotations

from typing import Any

from clavitor_fleet_testing.server import Server, Start
from clavitor_licensing_testing.fixtures import logged
from clavitor_licensing_testing.server import DAY, NOW, Log, environ, token

__all__ = ["logged"]

LARGE = {
    "max_environments": 3,
    "max_apps": 5,
    "max_agents": 5,
    "max_users": 5,
    "max_outbound_connections": 3,
    "max_alert_rules": 3,
    "max_total_cpu_millis": 4000,
    "max_total_memory_mb": 4000,
    "max_total_replicas": 8,
    "max_log_retention_days": 30,
    "max_jar_retention_count": 5,
}
SMALL = {**dict.fromkeys(LARGE, 1), "max_users": 5, "max_total_cpu_millis": 1000, "max_total_memory_mb": 1000}
OVER = {limit for limit in LARGE if limit != "max_users"}


def license_of(limits: dict[str, int]) -> str:
    return token(exp=NOW + 30 * DAY, limits=limits)


async def furnish(server: Server) -> dict[str, Any]:
    """Make more of everything than the small license allows."""
    first = await server.environment("first", log_retention_days=30, jar_retention_count=5)
    second = await server.environment("second")
    apps = [await server.app(first, f"app-{number}") for number in range(2)]
    for number in range(2):
        body = {"app_id": apps[0], "instance_id": f"i-{number}", "version": "1"}
        await server.post("agents/register", body)
        hook = {"name": f"hook-{number}", "kind": "webhook", "url": "https://93.184.215.14/"}
        await server.post("outbound-connections", hook)
        await server.post("alert-rules", _rule(number))
    size = {"replicas": 4, "cpu_millis": 500, "memory_mb": 500}
    deployment = await server.post("deployments", {"app_id": apps[0], **size})
    return {"first": first, "second": second, "apps": apps, "deployment": deployment["id"]}


def _rule(number: int) -> dict[str, Any]:
    return {"name": f"rule-{number}", "metric": "m", "comparison": "gt", "threshold": 1}


async def counts(server: Server) -> dict[str, int]:
    rows = (await server.get("admin/license/usage"))["limits"]
    return {row["key"]: row["current"] for row in rows}


async def test_a_license_below_what_there_is(start: Start, logged: Log) -> None:
    server = await start(licensing=True, **environ())
    await server.post("admin/license", {"token": license_of(LARGE)}, expect=200)
    made = await furnish(server)
    before = await counts(server)

    await server.post("admin/license", {"token": license_of(SMALL)}, expect=200)
    assert await counts(server) == before  # nothing is deleted
    warned = [line["limit"] for line in logged.lines(level="WARNING") if "current" in line and "cap" in line]
    assert sorted(warned) == sorted(OVER)

    await _nothing_is_created(server, made)
    await _reductions_pass(server, made)


async def _nothing_is_created(server: Server, made: dict[str, Any]) -> None:
    app = made["apps"][0]
    refused = [
        ("environments", {"name": "third"}),
        ("apps", {"environment_id": made["second"], "name": "third"}),
        ("agents/register", {"app_id": app, "instance_id": "third", "version": "1"}),
        ("outbound-connections", {"name": "third", "kind": "webhook", "url": "https://93.184.215.14/"}),
        ("alert-rules", _rule(3)),
    ]
    for path, body in refused:
        assert (await server.post(path, body, expect=403))["code"] == "license_cap_reached", path
    size = {"replicas": 1, "cpu_millis": 1, "memory_mb": 1}
    assert (await server.post("deployments", {"app_id": app, **size}))["status"] == "FAILED"
    longer = await server.put(f"environments/{made['first']}", {"log_retention_days": 31}, expect=422)
    assert longer["code"] == "license_cap_reached"


async def _reductions_pass(server: Server, made: dict[str, Any]) -> None:
    """Also to what is still above the cap."""
    first = f"environments/{made['first']}"
    assert (await server.put(first, {"log_retention_days": 20}))["log_retention_days"] == 20
    fewer = await server.put(f"admin/{first}/jar-retention", {"jar_retention_count": 4})
    assert fewer["jar_retention_count"] == 4
    scaled = await server.put(f"deployments/{made['deployment']}", {"replicas": 3})
    assert scaled["replicas"] == 3
    (agent, *_) = (await server.get("agents"))["agents"]
    await server.delete(f"agents/{agent['id']}")
    for kind, key in (("alert-rules", "alert_rules"), ("outbound-connections", "outbound_connections")):
        (one, *_) = (await server.get(kind))[key]
        await server.delete(f"{kind}/{one['id']}")
    await server.delete(f"apps/{made['apps'][1]}")
    await server.delete(f"environments/{made['second']}")
