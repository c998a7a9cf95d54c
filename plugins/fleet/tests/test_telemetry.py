"""Telemetry through REST: what agents report, and what is found again."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import httpx
import pytest
from clavitor_fleet_testing.server import V1, Server, Start

SECOND = 1_000_000
DAY = 86_400 * SECOND

ROWS: dict[str, dict[str, Any]] = {
    "executions": {
        "execution_id": "x-1",
        "route": "orders",
        "status": "FAILED",
        "started_at": 1_760_000_000_000_000,
        "duration_ms": 12.5,
        "error": "refused",
        "attributes": {"customer": {"id": 7}},
    },
    "processors": {
        "execution_id": "x-1",
        "processor_id": "p-1",
        "type": "to",
        "position": 3,
        "duration_ms": 0.25,
        "status": "COMPLETED",
    },
    "route_diagrams": {"route": "orders", "diagram": {"nodes": ["a", "b"]}, "version": "7"},
    "agent_events": {"type": "started", "message": "héllo", "attributes": {}},
    "logs": {"level": "INFO", "message": "ready\nto serve", "logger": "main", "attributes": {"n": 1.5}},
    "metrics": {"name": "heap", "value": -0.1, "labels": {"area": "old"}},
}
SHORTEST: dict[str, dict[str, Any]] = {
    "executions": {"execution_id": "x-1", "status": "RUNNING"},
    "processors": {"execution_id": "x-1", "processor_id": "p", "position": 0, "duration_ms": 0, "status": "RUNNING"},
    "route_diagrams": {"route": "orders", "diagram": "a → b"},
    "agent_events": {"type": "stopped"},
    "logs": {"level": "INFO", "message": ""},
    "metrics": {"name": "heap", "value": 1},
}


class Reporter(NamedTuple):
    """A registered agent, and a client that shows its token."""

    id: str
    app_id: str
    client: httpx.AsyncClient

    async def report(self, stream: str, rows: Any, *, expect: int = 200, key: str | None = None) -> Any:
        headers = {} if key is None else {"Idempotency-Key": key}
        reply = await self.client.post(f"{V1}/telemetry/{stream}", json=rows, headers=headers)
        assert reply.status_code == expect, reply.text
        return reply.json()


async def reporter(fleet: Server, environment_id: str, app: str = "shop", instance: str = "i-1") -> Reporter:
    known = (await fleet.get("apps", environment_id=environment_id))["apps"]
    found = [one["id"] for one in known if one["name"] == app]
    app_id = found[0] if found else await fleet.app(environment_id, app)
    made = await fleet.post("agents/register", {"app_id": app_id, "instance_id": instance, "version": "1"})
    return Reporter(made["agent"]["id"], app_id, await fleet.client(made["token"]))


@pytest.mark.parametrize("stream", ROWS)
async def test_what_is_reported_is_found_again_as_it_was(fleet: Server, stream: str) -> None:
    environment = await fleet.environment()
    agent = await reporter(fleet, environment)
    now = fleet.host.clock.now_us()
    full, shortest = {**ROWS[stream], "ts": now - 5}, SHORTEST[stream]
    assert await agent.report(stream, [full, shortest]) == {"accepted": 2, "replayed": False}
    newest, older = (await fleet.get(f"telemetry/{stream}"))["rows"]
    place = {"environment_id": environment, "app_id": agent.app_id, "agent_id": agent.id}
    assert older == {**full, **place, "id": older["id"]}
    nothing = dict.fromkeys(ROWS[stream])
    assert newest == {**nothing, **shortest, **place, "ts": now, "id": newest["id"]}


async def test_ndjson_is_taken_as_an_array_is(fleet: Server) -> None:
    agent = await reporter(fleet, await fleet.environment())
    body = "\n".join(json.dumps({"name": "heap", "value": value}) for value in (1, 2.5)) + "\r\n\n"
    headers = {"Content-Type": "application/x-ndjson"}
    reply = await agent.client.post(f"{V1}/telemetry/metrics", content=body, headers=headers)
    assert (reply.status_code, reply.json()) == (200, {"accepted": 2, "replayed": False})
    assert [row["value"] for row in (await fleet.get("telemetry/metrics"))["rows"]] == [2.5, 1.0]


BAD_ROWS: list[tuple[str, Any, str]] = [
    ("metrics", {"name": "heap"}, "value"),
    ("metrics", {"name": "heap", "value": "1"}, "value"),
    ("metrics", {"name": "heap", "value": True}, "value"),
    ("metrics", {"name": "heap", "value": 1.01e100}, "value"),
    ("metrics", {"name": "heap", "value": -1.7e308}, "value"),
    ("metrics", {"name": "", "value": 1}, "name"),
    ("metrics", {"name": "he\0ap", "value": 1}, "name"),
    ("metrics", {"name": "heap", "value": 1, "labels": {"a": 1}}, "labels"),
    ("metrics", {"name": "heap", "value": 1, "unit": "B"}, "unit"),
    ("metrics", {"name": "heap", "value": 1, "ts": -1}, "ts"),
    ("metrics", {"name": "heap", "value": 1, "ts": 1.5}, "ts"),
    ("metrics", 7, ""),
    ("logs", {"level": "INFO", "message": "x" * 65_537}, "message"),
    ("logs", {"level": "INFO", "message": "", "attributes": {"a": "x" * 16_384}}, "attributes"),
    ("route_diagrams", {"route": "r", "diagram": "x" * 262_144}, "diagram"),
    ("executions", {"execution_id": "x", "status": "RUNNING", "duration_ms": -1}, "duration_ms"),
    ("executions", {"execution_id": "x", "status": "RUNNING", "duration_ms": 1e101}, "duration_ms"),
]


async def test_one_bad_row_is_a_400_that_names_it_and_nothing_is_kept(quick_start: Start) -> None:
    fleet = await quick_start()
    agent = await reporter(fleet, await fleet.environment())
    for stream, row, field in BAD_ROWS:
        refused = await agent.report(stream, [SHORTEST[stream], SHORTEST[stream], row], expect=400)
        assert (refused["code"], refused["row"], refused["field"]) == ("invalid_row", 2, field)
        assert (await fleet.get(f"telemetry/{stream}"))["rows"] == []


async def test_a_row_may_be_a_day_ahead_and_no_more(fleet: Server) -> None:
    agent = await reporter(fleet, await fleet.environment())
    latest = fleet.host.clock.now_us() + DAY
    await agent.report("metrics", [{"name": "heap", "value": 1, "ts": latest}])
    refused = await agent.report("metrics", [{"name": "heap", "value": 1, "ts": latest + 1}], expect=400)
    assert refused["field"] == "ts"


NO_JSON = [
    (b'{"name":"heap","value":1', "application/json", "malformed_json"),
    (b'{"name":"heap","value":1}', "application/json", "invalid_field"),
    (b'{"name":"heap","value":1\n}', "application/x-ndjson", "malformed_json"),
    (b'{"name":"heap","value":1} {}', "application/x-ndjson", "malformed_json"),
    (b'{"name":"heap","value":NaN}', "application/x-ndjson", "malformed_json"),
    (b'{"name":"heap","value":1,"value":2}', "application/x-ndjson", "malformed_json"),
    (b'{"name":"heap","value":1e999}', "application/x-ndjson", "malformed_json"),
    (b'{"name":"\xff","value":1}', "application/x-ndjson", "malformed_json"),
    (b'{"name":"\\ud800","value":1}', "application/x-ndjson", "malformed_json"),
    (b'{"name":"heap","value":1,"labels":' + b"[" * 70 + b"]" * 70 + b"}", "application/x-ndjson", "malformed_json"),
]


async def test_what_is_no_json_is_a_400(quick_start: Start) -> None:
    fleet = await quick_start()
    agent = await reporter(fleet, await fleet.environment())
    for body, content_type, code in NO_JSON:
        reply = await agent.client.post(f"{V1}/telemetry/metrics", content=body, headers={"Content-Type": content_type})
        assert (reply.status_code, reply.json()["code"]) == (400, code), body
    reply = await agent.client.post(f"{V1}/telemetry/metrics", content=b"[]", headers={"Content-Type": "text/csv"})
    assert reply.status_code == 415


async def test_a_batch_has_a_thousand_rows_at_most(fleet: Server) -> None:
    agent = await reporter(fleet, await fleet.environment())
    row = {"name": "heap", "value": 1}
    assert await agent.report("metrics", [row] * 1000) == {"accepted": 1000, "replayed": False}
    assert (await agent.report("metrics", [row] * 1001, expect=413))["code"] == "too_many_rows"
    assert await agent.report("metrics", []) == {"accepted": 0, "replayed": False}


async def test_a_batch_that_is_sent_again_is_not_kept_twice(fleet: Server) -> None:
    environment = await fleet.environment()
    one, other = await reporter(fleet, environment), await reporter(fleet, environment, instance="i-2")
    row = {"name": "heap", "value": 1}
    for again in (False, True):
        assert await one.report("metrics", [row], key="batch-1") == {"accepted": 1, "replayed": again}
    await other.report("metrics", [row], key="batch-1")
    await one.report("agent_events", [{"type": "x"}], key="batch-1")
    assert len((await fleet.get("telemetry/metrics"))["rows"]) == 2
    assert len((await fleet.get("telemetry/agent_events"))["rows"]) == 1
    refused = await one.report("metrics", [row], expect=400, key="a b")
    assert refused["field"] == "Idempotency-Key"


async def test_another_body_under_a_kept_key_is_a_409_and_nothing_of_it_is_kept(fleet: Server) -> None:
    agent = await reporter(fleet, await fleet.environment())
    await agent.report("metrics", [{"name": "heap", "value": 1}], key="batch-1")
    refused = await agent.report("metrics", [{"name": "heap", "value": 2}], expect=409, key="batch-1")
    assert (refused["code"], refused["field"]) == ("idempotency_key_reused", "Idempotency-Key")
    assert [row["value"] for row in (await fleet.get("telemetry/metrics"))["rows"]] == [1]
    await agent.report("metrics", [{"name": "heap", "value": 2}], key="batch-2")


SOUGHT = {
    "executions": "execution_id",
    "processors": "execution_id",
    "route_diagrams": "route",
    "agent_events": "type",
    "logs": "level",
    "metrics": "name",
}


async def test_rows_are_found_by_the_value_that_people_look_for(quick_start: Start) -> None:
    fleet = await quick_start()
    agent = await reporter(fleet, await fleet.environment())
    for stream, column in SOUGHT.items():
        await agent.report(stream, [{**SHORTEST[stream], column: value} for value in ("a b", "a", "a b", "A b")])
        sought: dict[str, Any] = {column: "a b"}
        found = await fleet.get(f"telemetry/{stream}", limit=1, **sought)
        assert [row[column] for row in found["rows"]] == ["a b"]
        rest = await fleet.get(f"telemetry/{stream}", cursor=found["next_cursor"], **sought)
        assert [row[column] for row in rest["rows"]] == ["a b"]
        assert rest["next_cursor"] is None
        for wrong in ("", "x" * 257):
            refused = await fleet.get(f"telemetry/{stream}", expect=400, **{column: wrong})
            assert (refused["code"], refused["field"]) == ("invalid_field", column)


async def test_only_an_agent_with_a_seat_reports(fleet: Server) -> None:
    environment = await fleet.environment()
    agent = await reporter(fleet, environment)
    row = [{"name": "heap", "value": 1}]
    await fleet.post("telemetry/metrics", row, expect=403)
    registering = await fleet.harness.client_for("ADMIN", kind="agent", user_id=None, environment_id=environment)
    refused = await registering.post(f"{V1}/telemetry/metrics", json=row)
    assert (refused.status_code, refused.json()["code"]) == (403, "agent_required")
    fleet.clock.now += 3600
    await agent.report("metrics", row, expect=403)
    reply = await agent.client.post(f"{V1}/agents/{agent.id}/heartbeat", json={})
    assert reply.status_code == 200, reply.text
    await agent.report("metrics", row)
    await fleet.delete(f"agents/{agent.id}")
    await agent.report("metrics", row, expect=401)
    assert len((await fleet.get("telemetry/metrics"))["rows"]) == 1


async def test_rows_are_found_by_environment_app_agent_and_time(fleet: Server) -> None:
    first, second = await fleet.environment("a"), await fleet.environment("b")
    agents = {
        "a": await reporter(fleet, first, "shop", "i-1"),
        "b": await reporter(fleet, first, "shop", "i-2"),
        "c": await reporter(fleet, first, "mail"),
        "d": await reporter(fleet, second, "shop"),
    }
    now = fleet.host.clock.now_us()
    for number, (name, agent) in enumerate(agents.items()):
        await agent.report("logs", [{"level": "INFO", "message": name, "ts": now - number * SECOND}])

    async def found(**query: Any) -> str:
        return "".join(row["message"] for row in (await fleet.get("telemetry/logs", **query))["rows"])

    assert await found() == "abcd"
    assert await found(environment_id=first) == "abc"
    assert await found(app_id=agents["a"].app_id) == "ab"
    assert await found(app_id=agents["d"].app_id, environment_id=first) == ""
    assert await found(agent_id=agents["b"].id) == "b"
    assert await found(since=now - 2 * SECOND) == "abc"
    assert await found(until=now) == "bcd"
    assert await found(since=now - 2 * SECOND, until=now - SECOND) == "c"


async def test_pages_show_every_row_once_whatever_comes_meanwhile(fleet: Server) -> None:
    environment = await fleet.environment()
    shop, mail = await reporter(fleet, environment, "shop"), await reporter(fleet, environment, "mail")
    now = fleet.host.clock.now_us()
    for agent in (shop, mail):
        await agent.report("logs", [{"level": "INFO", "message": f"{n}", "ts": now - n // 3} for n in range(7)])
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 4}
    while True:
        page = await fleet.get("telemetry/logs", **query)
        seen += [f"{row['app_id']} {row['message']}" for row in page["rows"]]
        times = [row["ts"] for row in page["rows"]]
        assert times == sorted(times, reverse=True)
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        await shop.report("logs", [{"level": "INFO", "message": "new"}])
    assert sorted(seen) == sorted(f"{agent.app_id} {n}" for agent in (shop, mail) for n in range(7))


async def test_the_openapi_document_says_that_rows_may_come_as_ndjson(quick_start: Start) -> None:
    paths = (await (await quick_start()).get("openapi.json"))["paths"]
    content = paths["/api/v1/telemetry/logs"]["post"]["requestBody"]["content"]
    assert content == {
        "application/json": {"schema": {"$ref": "#/components/schemas/LogLineBatch"}},
        "application/x-ndjson": {"schema": {"type": "string"}},
    }
    assert list(paths["/api/v1/apps"]["post"]["requestBody"]["content"]) == ["application/json"]


async def test_a_page_ends_after_8_mib_of_json(quick_start: Start) -> None:
    fleet = await quick_start()
    agent = await reporter(fleet, await fleet.environment())
    now = fleet.host.clock.now_us()
    for first in range(0, 40, 8):
        lines = [{"level": str(n), "message": "\x01" * 65_536, "ts": now + n} for n in range(first, first + 8)]
        await agent.report("logs", lines)
    found: list[str] = []
    query: dict[str, Any] = {"limit": 1000}
    while query.get("cursor", "") is not None:
        reply = await fleet.admin.get(f"{V1}/telemetry/logs", params=query)
        assert len(reply.content) < 8 * 1024 * 1024 + 1024
        found += [row["level"] for row in reply.json()["rows"]]
        query["cursor"] = reply.json()["next_cursor"]
    assert found == [str(n) for n in range(39, -1, -1)]  # each is six times as long as JSON


async def test_a_query_that_cannot_be_is_a_400_that_names_the_parameter(quick_start: Start) -> None:
    fleet = await quick_start()
    wrong = [("limit", 0), ("limit", 1001), ("since", -1), ("until", "now"), ("cursor", "x"), ("cursor", "1.x")]
    for name, value in wrong:
        refused = await fleet.get("telemetry/logs", expect=400, **{name: value})
        assert (refused["code"], refused["field"]) == ("invalid_field", name)


async def test_a_token_of_an_environment_finds_no_rows_of_another(fleet: Server) -> None:
    mine, other = await fleet.environment("mine"), await fleet.environment("other")
    for environment in (mine, other):
        agent = await reporter(fleet, environment)
        await agent.report("logs", [{"level": "INFO", "message": environment}])
    client = await fleet.harness.client_for("VIEWER", environment_id=mine)
    assert [row["message"] for row in (await client.get(f"{V1}/telemetry/logs")).json()["rows"]] == [mine]
    assert (await client.get(f"{V1}/telemetry/logs", params={"environment_id": other})).status_code == 403
    assert (await agent.client.get(f"{V1}/telemetry/logs")).status_code == 403


async def test_there_is_no_other_stream(fleet: Server) -> None:
    await fleet.get("telemetry/traces", expect=404)


async def test_rows_are_counted_by_stream(quick_start: Start) -> None:
    fleet = await quick_start()
    agent = await reporter(fleet, await fleet.environment())
    await agent.report("logs", [SHORTEST["logs"]] * 3)
    text = (await fleet.host.metrics.render()).decode()
    assert 'clavitor_fleet_telemetry_rows_total{stream="logs"} 3.0' in text
