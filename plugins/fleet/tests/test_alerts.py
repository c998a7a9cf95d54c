"""Alert rules: through REST, how they are evaluated, and that each change is told once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from clavitor_fleet.alerts import jobs
from clavitor_fleet.alerts.evaluator import Evaluator
from clavitor_fleet_testing.receiver import LOOPBACK, Receiver, eventually, receiving
from clavitor_fleet_testing.server import Server, Start
from clavitor_fleet_testing.store import SaidStore
from clavitor_licensing_testing.server import NOW, FrozenClock

from clavitor_host.api import Alert, Plugin, StorageUnavailable, hookimpl

PATH = "alert-rules"
SECRET = "a-secret-that-nobody-may-see"
LOAD: dict[str, Any] = {"name": "load", "metric": "load", "comparison": "gt", "threshold": 5}
QUIET: dict[str, Any] = {"name": "quiet", "event": "started", "comparison": "lt", "threshold": 1}


class Operator(Plugin):
    """Hears what the operator is told."""

    name = "operator"
    version = "1.0"

    def __init__(self) -> None:
        self.heard: list[Alert] = []

    @hookimpl
    async def alert_operator(self, alert: Alert) -> None:
        self.heard.append(alert)


def heard_by(server: Server) -> list[Alert]:
    record = server.host.registry.get("operator")
    assert record is not None and isinstance(record.plugin, Operator)
    return record.plugin.heard


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SaidStore:
    said = SaidStore()
    monkeypatch.setattr("clavitor_fleet.telemetry.open.open_store", lambda *_: said)
    monkeypatch.setattr(jobs, "PERIOD", 3600.0)  # a test evaluates when it wants to
    return said


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


@pytest.fixture
async def server(start: Start, store: SaidStore) -> Server:
    return await start(Operator, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)


async def look(server: Server, *, after: float = 15) -> None:
    """Let time pass, and look at all rules."""
    server.clock.now += after
    await Evaluator(server.host, server.fleet.telemetry, server.fleet.metrics).evaluate()


async def rule(server: Server, **more: Any) -> str:
    return str((await server.post(PATH, {**LOAD, **more}))["id"])


async def state(server: Server, rule_id: str) -> tuple[str, int | None, float | None]:
    """Return state, since (seconds since the tests' first moment), value."""
    found = await server.get(f"{PATH}/{rule_id}")
    since = found["since"]
    return found["state"], None if since is None else since // 1_000_000 - NOW, found["value"]


async def connect(server: Server, url: str, name: str = "pager") -> str:
    return str((await server.post("outbound-connections", {"name": name, "url": url, "secret": SECRET}))["id"])


async def told(server: Server, number: int) -> list[str]:
    """Wait until the operator was told so often; return of what."""

    async def enough() -> bool:
        return len(heard_by(server)) >= number

    await eventually(enough)
    return [alert.type for alert in heard_by(server)]


# --- through REST


async def test_a_rule_is_made_read_changed_listed_and_deleted(server: Server) -> None:
    made = await server.post(PATH, LOAD)
    path = f"{PATH}/{made['id']}"
    assert {key: value for key, value in made.items() if key not in ("id", "created_at", "updated_at")} == {
        "name": "load",
        "environment_id": None,
        "app_id": None,
        "metric": "load",
        "event": None,
        "aggregation": "avg",
        "comparison": "gt",
        "threshold": 5.0,
        "window": 300,
        "for": 0,
        "on_no_data": "keep",
        "outbound_connection_id": None,
        "severity": "warning",
        "enabled": True,
        "state": "ok",
        "since": None,
        "value": None,
    }
    assert await server.get(path) == made
    changed = await server.put(path, {"for": 60, "window": 15, "severity": "critical", "threshold": -1.5})
    assert (changed["for"], changed["window"], changed["threshold"]) == (60, 15, -1.5)
    assert (await server.put(path, {"event": "crashed"}))["aggregation"] == "count"
    assert (await server.put(path, {"metric": "load", "aggregation": "max"}))["event"] is None
    assert (await server.get(PATH))["alert_rules"] == [await server.get(path)]
    await server.delete(path)
    for ask in (server.get(path, expect=404), server.delete(path, expect=404), server.put(path, {}, expect=404)):
        assert (await ask)["code"] == "alert_rule_not_found"
    rows = await server.audit(category="FLEET")
    assert [row["action"] for row in rows] == ["delete_alert_rule", *["update_alert_rule"] * 3, "create_alert_rule"]
    assert rows[3]["payload"]["was"] == {"for": 0, "window": 300, "severity": "warning", "threshold": 5.0}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": " "}, "name"),
        ({"metric": None}, "metric"),
        ({"event": "started"}, "metric"),
        ({"metric": ""}, "metric"),
        ({"outbound_connection_id": ""}, "outbound_connection_id"),
        ({"metric": "a\nb"}, "metric"),
        ({"metric": "x" * 257}, "metric"),
        ({"comparison": ">"}, "comparison"),
        ({"aggregation": "p99"}, "aggregation"),
        ({"threshold": "5"}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"window": 14}, "window"),
        ({"window": 86_401}, "window"),
        ({"window": 15.5}, "window"),
        ({"for": -1}, "for"),
        ({"for": 86_401}, "for"),
        ({"for_": 1}, "for_"),
        ({"severity": "bad"}, "severity"),
        ({"enabled": "yes"}, "enabled"),
        ({"state": "firing"}, "state"),
    ],
)
async def test_what_is_no_rule_is_a_400_that_names_the_field(
    quick_start: Start, store: SaidStore, wrong: dict[str, Any], field: str
) -> None:
    server = await quick_start()
    refused = await server.post(PATH, {**LOAD, **wrong}, expect=400)
    assert (refused["code"], refused["field"]) == ("invalid_field", field)


async def test_an_event_is_counted_and_nothing_else(server: Server) -> None:
    refused = await server.post(PATH, {**QUIET, "aggregation": "avg"}, expect=422)
    assert (refused["code"], refused["field"]) == ("invalid_value", "aggregation")
    made = await server.post(PATH, QUIET)
    assert made["aggregation"] == "count"
    assert (await server.put(f"{PATH}/{made['id']}", {"aggregation": "max"}, expect=422))["field"] == "aggregation"


@pytest.mark.parametrize("field", ["environment_id", "app_id", "outbound_connection_id"])
async def test_what_a_rule_names_must_be_there(server: Server, field: str) -> None:
    refused = await server.post(PATH, {**LOAD, field: "nowhere"}, expect=422)
    assert (refused["code"], refused["field"]) == ("unknown_reference", field)
    assert (await server.get(PATH))["alert_rules"] == []


async def test_the_rule_of_an_app_is_in_its_environment(server: Server) -> None:
    environment, other = await server.environment("a"), await server.environment("b")
    app = await server.app(environment)
    refused = await server.post(PATH, {**LOAD, "app_id": app, "environment_id": other}, expect=422)
    assert (refused["code"], refused["field"]) == ("invalid_value", "app_id")
    made = await server.post(PATH, {**LOAD, "app_id": app})
    assert made["environment_id"] == environment
    assert [one["id"] for one in (await server.get(PATH, app_id=app))["alert_rules"]] == [made["id"]]
    assert (await server.get(PATH, environment_id=other))["alert_rules"] == []
    assert (await server.delete(f"apps/{app}", expect=409))["used_by"] == {"alert_rules": 1}
    assert (await server.delete(f"environments/{environment}", expect=409))["used_by"] == {"apps": 1, "alert_rules": 1}


async def test_a_name_is_unique_within_its_environment(server: Server) -> None:
    environment = await server.environment()
    await rule(server)
    await rule(server, environment_id=environment)
    for body in (LOAD, {**LOAD, "environment_id": environment}):
        refused = await server.post(PATH, {**body, "name": "LOAD"}, expect=409)
        assert (refused["code"], refused["field"]) == ("alert_rule_exists", "name")


async def test_a_connection_in_use_is_not_deleted(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url)
    made = await rule(server, outbound_connection_id=connection)
    refused = await server.delete(f"outbound-connections/{connection}", expect=409)
    assert (refused["code"], refused["used_by"]) == ("outbound_connection_in_use", {"alert_rules": 1})
    assert (await server.put(f"{PATH}/{made}", {"outbound_connection_id": ""}))["outbound_connection_id"] is None
    await server.delete(f"outbound-connections/{connection}")


async def test_a_token_of_an_environment_reaches_its_own_rules(server: Server, receiver: Receiver) -> None:
    mine, other = await server.environment("mine"), await server.environment("other")
    app, foreign = await server.app(mine), await server.app(other)
    connection = await connect(server, receiver.url)
    theirs, everywhere = await rule(server, environment_id=other), await rule(server)
    client = await server.harness.client_for("OPERATOR", environment_id=mine)
    path = f"/api/v1/{PATH}"
    for body, status in (
        (LOAD, 403),
        ({**LOAD, "environment_id": other}, 403),
        ({**LOAD, "app_id": foreign}, 422),
        ({**LOAD, "app_id": app, "outbound_connection_id": connection}, 422),
        ({**LOAD, "app_id": app}, 201),
    ):
        reply = await client.post(path, json=body)
        assert reply.status_code == status, reply.text
    assert [one["app_id"] for one in (await client.get(path)).json()["alert_rules"]] == [app]
    for unreached in (theirs, everywhere):
        assert (await client.get(f"{path}/{unreached}")).status_code == 404
        assert (await client.put(f"{path}/{unreached}", json={"enabled": False})).status_code == 404
        assert (await client.delete(f"{path}/{unreached}")).status_code == 404
    assert (await client.get(path, params={"environment_id": other})).status_code == 403
    assert (await client.get("/api/v1/alerts", params={"environment_id": other})).status_code == 403


# --- evaluation


async def test_all_rules_are_measured_by_one_call(server: Server, store: SaidStore) -> None:
    environment = await server.environment()
    app = await server.app(environment)
    await rule(server, environment_id=environment, aggregation="max", window=60)
    await server.post(PATH, {**QUIET, "app_id": app})
    await rule(server, name="off", enabled=False)
    await look(server)
    (asked,) = store.asked
    quiet, load = sorted(asked)
    now = server.clock.now_us()
    assert load == ("metric", "load", environment, None, now - 60_000_000, now, "max")
    assert quiet == ("event", "started", environment, app, now - 300_000_000, now, "count")


async def test_without_rules_the_store_is_not_asked(server: Server, store: SaidStore) -> None:
    await look(server)
    assert store.asked == []


async def test_a_condition_fires_when_it_has_held_for_long_enough_and_is_resolved(
    server: Server, store: SaidStore
) -> None:
    load = await rule(server, **{"for": 30})
    store.values["load"] = 5.0
    await look(server)
    assert await state(server, load) == ("ok", None, None)
    store.values["load"] = 6.0
    await look(server)
    assert await state(server, load) == ("pending", 30, 6.0)
    store.values["load"] = 7.0
    await look(server)
    assert await state(server, load) == ("pending", 30, 7.0)
    await look(server)
    assert await state(server, load) == ("firing", 60, 7.0)
    store.values["load"] = 8.0
    await look(server)
    assert await state(server, load) == ("firing", 60, 8.0)
    store.values["load"] = 1.0
    await look(server)
    assert await state(server, load) == ("ok", 90, 1.0)
    assert await told(server, 2) == ["fleet_alert_firing", "fleet_alert_resolved"]


async def test_what_ends_before_its_time_was_nothing(server: Server, store: SaidStore) -> None:
    load = await rule(server, **{"for": 30})
    for value in (6.0, 6.0, 1.0, 6.0, 6.0):
        store.values["load"] = value
        await look(server)
    assert await state(server, load) == ("pending", 60, 6.0)
    assert [row["action"] for row in await server.audit(category="FLEET")] == ["create_alert_rule"]


@pytest.mark.parametrize(
    ("comparison", "fires"),
    [("gt", "6"), ("gte", "56"), ("lt", "4"), ("lte", "45"), ("eq", "5"), ("ne", "46")],
)
async def test_comparisons(quick_start: Start, store: SaidStore, comparison: str, fires: str) -> None:
    server = await quick_start(Operator)
    for name in "456":
        store.values[name] = float(name)
        await rule(server, name=name, metric=name, comparison=comparison)
    await look(server)
    firing = (await server.get("alerts", state="firing"))["alerts"]
    assert "".join(sorted(alert["name"] for alert in firing)) == fires


async def test_where_nothing_is_reported_a_count_is_zero_and_other_rules_keep_their_state(
    server: Server, store: SaidStore
) -> None:
    quiet = str((await server.post(PATH, QUIET))["id"])
    counted = await rule(server, name="counted", aggregation="count", comparison="eq", threshold=0)
    fires = await rule(server, window=60, on_no_data="resolve", **{"for": 15})
    never = await rule(server, name="never", metric="never")
    store.values["load"] = 6.0
    await look(server)
    await look(server)
    assert (await state(server, quiet))[0] == "firing"
    assert (await state(server, counted))[0] == "ok"
    assert await state(server, fires) == ("firing", 30, 6.0)
    store.values["load"] = None
    await look(server)
    assert (await state(server, counted))[0] == "firing"
    for _ in range(4):
        assert await state(server, fires) == ("firing", 30, 6.0)
        await look(server)
    store.values["load"] = 9.0
    await look(server)
    assert await state(server, fires) == ("firing", 30, 9.0)
    store.values["load"] = None
    await look(server)  # 135: nothing from here on
    await look(server, after=60)
    assert (await state(server, fires))[0] == "firing"
    await look(server)
    assert await state(server, fires) == ("ok", 210, None)
    assert await state(server, never) == ("ok", None, None)
    (row,) = await server.audit(action="resolve_alert", limit="1")
    assert row["payload"]["reason"] == "no_data"


async def test_what_fires_goes_on_firing_while_its_reporter_is_silent_for_a_day_at_most(
    server: Server, store: SaidStore
) -> None:
    fires = await rule(server, window=60)
    waits = await rule(server, name="waits", window=60, **{"for": 120})
    store.values["load"] = 6.0
    await look(server)
    store.values["load"] = None
    await look(server)  # 30: nothing from here on
    await look(server, after=180)
    assert (await state(server, waits))[0] == "ok"  # never told: it is forgotten
    await look(server, after=86_400 - 180 - 1)
    assert await state(server, fires) == ("firing", 15, 6.0)
    await look(server, after=1)
    assert await state(server, fires) == ("ok", 30 + 86_400, None)
    (row,) = await server.audit(action="resolve_alert")
    assert row["payload"]["reason"] == "no_data"


async def test_a_silent_rule_is_resolved_once_it_says_resolve_and_stays_what_it_is_until_then(
    server: Server, store: SaidStore
) -> None:
    fires = await rule(server, window=60)
    store.values["load"] = 6.0
    await look(server)
    store.values["load"] = None
    await look(server)
    await look(server, after=60)
    changed = await server.put(f"{PATH}/{fires}", {"on_no_data": "resolve"})
    assert (changed["state"], changed["on_no_data"]) == ("firing", "resolve")
    await look(server)
    assert (await state(server, fires))[0] == "ok"
    refused = await server.put(f"{PATH}/{fires}", {"on_no_data": "ok"}, expect=400)
    assert refused["field"] == "on_no_data"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
async def test_what_is_no_number_says_nothing(quick_start: Start, store: SaidStore, value: float | None) -> None:
    server = await quick_start(Operator)
    load = await rule(server)
    store.values["load"] = value
    await look(server)
    assert await state(server, load) == ("ok", None, None)


# --- telling


async def test_each_change_is_told_once_with_all_that_matters(
    server: Server, store: SaidStore, receiver: Receiver
) -> None:
    environment = await server.environment()
    app = await server.app(environment)
    connection = await connect(server, receiver.url)
    load = await rule(server, app_id=app, outbound_connection_id=connection, severity="critical", window=60)
    store.values["load"] = 6.5
    for _ in range(3):
        await look(server)
    store.values["load"] = 2.0
    for _ in range(3):
        await look(server)
    firing, resolved = await receiver.wait(2)
    assert firing.headers["x-clavitor-event"] == "alert.firing"
    assert firing.signed_with(SECRET) and resolved.signed_with(SECRET)
    described = {
        "id": load,
        "name": "load",
        "severity": "critical",
        "metric": "load",
        "aggregation": "avg",
        "comparison": "gt",
        "threshold": 5.0,
        "window": 60,
        "for": 0,
        "on_no_data": "keep",
    }
    common = {
        "rule": described,
        "reason": "condition",
        "threshold": 5.0,
        "since": (NOW + 15) * 1_000_000,
        "environment": {"id": environment, "name": "production"},
        "app": {"id": app, "name": "shop"},
    }
    assert firing.json == {"event": "alert.firing", "value": 6.5, "at": (NOW + 15) * 1_000_000, **common}
    assert resolved.json == {"event": "alert.resolved", "value": 2.0, "at": (NOW + 60) * 1_000_000, **common}
    assert await told(server, 2) == ["fleet_alert_firing", "fleet_alert_resolved"]
    alert = heard_by(server)[0]
    assert alert.message == "Alert rule load is firing: avg of metric load > 5, measured 6.5."
    assert {key: value for key, value in alert.details.items() if key != "notice"} == {
        "rule_id": load,
        "name": "load",
        "value": 6.5,
        "threshold": 5.0,
    }
    rows = await server.audit(category="FLEET")
    assert [row["action"] for row in rows[:2]] == ["resolve_alert", "fire_alert"]
    assert rows[1]["payload"]["value"] == 6.5
    assert len((await server.get(f"outbound-connections/{connection}/deliveries"))["deliveries"]) == 2


async def test_alerts_are_listed_and_counted_while_they_are(server: Server, store: SaidStore) -> None:
    mine, other = await server.environment("mine"), await server.environment("other")
    store.values |= {"load": 6.0}
    first = await rule(server, severity="critical", environment_id=mine)
    second = await rule(server, name="slow", environment_id=other, **{"for": 60})
    await look(server)

    async def listed(**query: Any) -> list[str]:
        return [alert["rule_id"] for alert in (await server.get("alerts", **query))["alerts"]]

    assert sorted(await listed()) == sorted([first, second])
    assert await listed(state="pending") == [second]
    assert await listed(environment_id=mine) == [first]
    assert len(await listed(limit=1)) == 1
    await server.get("alerts", state="ok", expect=400)
    client = await server.harness.client_for("VIEWER", environment_id=other)
    assert [alert["name"] for alert in (await client.get("/api/v1/alerts")).json()["alerts"]] == ["slow"]
    text = (await server.host.metrics.render()).decode()
    for line in (
        'clavitor_fleet_alerts_firing{severity="critical"} 1.0',
        'clavitor_fleet_alerts_firing{severity="info"} 0.0',
        'clavitor_fleet_alert_transitions_total{state="firing"} 1.0',
        'clavitor_fleet_alert_transitions_total{state="pending"} 1.0',
    ):
        assert line in text
    store.values["load"] = 0.0
    await look(server)
    assert await listed() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"threshold": 7}, "changed"),
        ({"for": 30}, "changed"),
        ({"enabled": False}, "disabled"),
        (None, "deleted"),
    ],
)
async def test_a_rule_that_is_changed_while_it_fires_is_resolved_and_told_so(
    server: Server, store: SaidStore, receiver: Receiver, change: dict[str, Any] | None, reason: str
) -> None:
    connection = await connect(server, receiver.url)
    load = await rule(server, outbound_connection_id=connection)
    store.values["load"] = 6.0
    await look(server)
    if change is None:
        await server.delete(f"{PATH}/{load}")
    else:
        assert (await server.put(f"{PATH}/{load}", change))["state"] == "ok"
    resolved = (await receiver.wait(2))[1].json
    assert (resolved["event"], resolved["reason"]) == ("alert.resolved", reason)
    assert resolved["rule"]["threshold"] == 5.0
    assert await told(server, 2) == ["fleet_alert_firing", "fleet_alert_resolved"]
    actions = [row["action"] for row in await server.audit(category="FLEET")][:2]
    assert actions == ["resolve_alert", "delete_alert_rule" if change is None else "update_alert_rule"]
    assert (await server.get("alerts"))["alerts"] == []


async def test_a_rule_whose_name_or_severity_changes_goes_on_firing(server: Server, store: SaidStore) -> None:
    load = await rule(server)
    store.values["load"] = 6.0
    await look(server)
    changed = await server.put(f"{PATH}/{load}", {"name": "busy", "severity": "info"})
    assert changed["state"] == "firing"
    await look(server)
    assert await told(server, 1) == ["fleet_alert_firing"]


async def test_processes_that_look_at_once_tell_once(start: Start, store: SaidStore, receiver: Receiver) -> None:
    servers = [await start(Operator, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK) for _ in range(2)]
    connection = await connect(servers[0], receiver.url)
    for n in range(5):
        await rule(servers[0], name=f"load {n}", outbound_connection_id=connection)
    for value in (6.0, 1.0, 6.0):
        store.values["load"] = value
        servers[0].clock.now += 1  # three times 15 are longer than a lease: then both processes deliver
        await asyncio.gather(*(look(server, after=0) for server in servers * 3))
    await receiver.wait(15)
    events = [got.headers["x-clavitor-event"].removeprefix("alert.") for got in receiver.received]
    assert events == ["firing"] * 5 + ["resolved"] * 5 + ["firing"] * 5

    async def all_told() -> bool:
        return sum(len(heard_by(server)) for server in servers) >= 15

    await eventually(all_told)
    assert len(await servers[0].audit(action="fire_alert")) == 10


async def test_a_restart_tells_nothing_again(
    start: Start, store: SaidStore, receiver: Receiver, clock: FrozenClock
) -> None:
    first = await start(Operator, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    connection = await connect(first, receiver.url)
    load = await rule(first, outbound_connection_id=connection, **{"for": 30})
    store.values["load"] = 6.0
    await look(first)
    second = await start(Operator, stop=first, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    await look(second, after=30)  # the time of the process before counts
    assert await state(second, load) == ("firing", 45, 6.0)
    await receiver.wait(1)
    third = await start(Operator, stop=second, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    await look(third)
    assert await state(third, load) == ("firing", 45, 6.0)
    store.values["load"] = 0.0
    await look(third)
    assert [got.json["event"] for got in await receiver.wait(2)] == ["alert.firing", "alert.resolved"]


async def test_a_receiver_that_hangs_delays_no_evaluation(server: Server, store: SaidStore, receiver: Receiver) -> None:
    receiver.answer = lambda _: "hang"
    connection = await connect(server, receiver.url)
    load = await rule(server, outbound_connection_id=connection)
    async with asyncio.timeout(5):
        for turn in range(6):
            store.values["load"] = 6.0 if turn % 2 == 0 else 1.0
            await look(server)
    assert (await state(server, load))[0] == "ok"
    assert len(await told(server, 6)) == 6
    assert len(await receiver.wait(1)) == 1


async def test_an_operator_alert_that_hangs_delays_no_evaluation(start: Start, store: SaidStore) -> None:
    class Slow(Plugin):
        name = "slow"
        version = "1.0"

        @hookimpl
        async def alert_operator(self, alert: Alert) -> None:
            await asyncio.sleep(3600)

    server = await start(Slow)
    load = await rule(server)
    async with asyncio.timeout(5):
        for value in (6.0, 1.0, 6.0):
            store.values["load"] = value
            await look(server)
    assert (await state(server, load))[0] == "firing"


async def test_a_store_that_is_away_changes_nothing(server: Server, store: SaidStore) -> None:
    load = await rule(server)
    store.values["load"] = 6.0
    await look(server)
    store.broken = StorageUnavailable("away")
    for _ in range(2):
        await look(server)
    assert await state(server, load) == ("firing", 15, 6.0)
    store.broken = None
    store.values["load"] = 0.0
    await look(server)
    assert await state(server, load) == ("ok", 60, 0.0)


async def test_a_rule_that_is_changed_while_it_is_measured_stays_as_it_is(
    server: Server, store: SaidStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, gone = await rule(server), await rule(server, name="gone")
    store.values["load"] = 6.0
    measure = store.measure

    async def meanwhile(asked: Any) -> Any:
        await server.put(f"{PATH}/{load}", {"threshold": 100})
        await server.delete(f"{PATH}/{gone}")
        return await measure(asked)

    monkeypatch.setattr(store, "measure", meanwhile)
    await look(server)
    assert await state(server, load) == ("ok", None, None)
    assert heard_by(server) == []


async def test_nothing_is_written_while_nothing_changes(
    server: Server, store: SaidStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        await rule(server, name=f"load {n}")
    store.values["load"] = 1.0
    monkeypatch.setattr(server.host.db, "transaction", None)
    await look(server)
    await look(server)


async def test_many_changes_are_all_told(
    server: Server, store: SaidStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clavitor_fleet.alerts.evaluator.BATCH", 7)
    connection = await connect(server, receiver.url)
    made = [await rule(server, name=f"load {n}", outbound_connection_id=connection) for n in range(20)]
    store.values["load"] = 6.0
    await look(server)
    assert sorted(made) == sorted(got.json["rule"]["id"] for got in await receiver.wait(20))
    assert SECRET not in json.dumps(await server.audit())


@pytest.mark.parametrize("field", ["environment_id", "app_id", "outbound_connection_id", "metric", "name"])
async def test_no_text_is_a_server_error(server: Server, field: str) -> None:
    for text in ("\x00", "a\x00b", "\U0001f600" * 60, "%s'\";--"):
        reply = await server.admin.post(f"/api/v1/{PATH}", json={**LOAD, field: text})
        assert reply.status_code in (201, 400, 409, 422), reply.text


async def test_the_caps_on_rules_and_connections(start: Start, store: SaidStore, receiver: Receiver) -> None:
    server = await start(Operator, licensing=True, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    await connect(server, receiver.url)
    body = {"name": "second", "url": receiver.url}
    refused = await server.post("outbound-connections", body, expect=403)
    assert (refused["limit"], refused["current"], refused["cap"]) == ("max_outbound_connections", 1, 1)
    made = [await rule(server, name=name) for name in ("first", "second")]
    refused = await server.post(PATH, {**LOAD, "name": "third"}, expect=403)
    assert (refused["limit"], refused["current"], refused["cap"]) == ("max_alert_rules", 2, 2)
    await server.put(f"{PATH}/{made[0]}", {"threshold": 9})
    await server.delete(f"{PATH}/{made[1]}")
    await rule(server, name="third")


async def test_the_openapi_document_says_for(quick_start: Start, store: SaidStore) -> None:
    server = await quick_start()
    schemas = (await server.get("openapi.json"))["components"]["schemas"]
    for name in ("CreateRule", "UpdateRule", "RuleOut"):
        assert "for" in schemas[name]["properties"]
        assert "for_" not in schemas[name]["properties"]
