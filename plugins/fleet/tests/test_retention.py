"""For how long telemetry is kept: the lesser of cap and configured, without a restart, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from clavitor_fleet.retention.applier import RetentionPolicyApplier
from clavitor_fleet.retention.expiry import expire
from clavitor_fleet.telemetry.sql_store import SqlStore
from clavitor_fleet.telemetry.store import STREAMS, BatchKey, Origin, Retention, RetentionDays
from clavitor_fleet.telemetry.tables import ROWS, telemetry_batches, telemetry_retention
from clavitor_fleet_testing.server import Server, Start
from clavitor_licensing_testing.server import DAY, NOW, FrozenClock, environ, token

from clavitor_host.api import StorageUnavailable

DAY_US = DAY * 1_000_000
MONTH: dict[str, Any] = {f"{kind}_retention_days": 30 for kind in ("execution", "log", "metric")}
CAPS = {f"max_{kind}_retention_days": 30 for kind in ("execution", "log", "metric")}


async def licensed(start: Start, **options: Any) -> Server:
    return await start(licensing=True, **environ(), **options)


async def install(server: Server, *, grace: int = 0, exp: int = NOW + 365 * DAY, **caps: int) -> None:
    limits = {**CAPS, **{f"max_{kind}_retention_days": days for kind, days in caps.items()}}
    await server.post("admin/license", {"token": token(limits=limits, exp=exp, grace=grace)}, expect=200)
    await server.host.state["licensing"].teller.settled()


async def keep(server: Server, environment_id: str, *ages: int, streams: tuple[str, ...] = ("logs",)) -> None:
    """Keep a row of each age, in days less an hour."""
    now = server.host.clock.now_us()
    origin = Origin(environment_id, "app", "agent")
    values: dict[str, dict[str, Any]] = {"logs": {"level": "INFO", "message": "", "logger": None, "attributes": None}}
    values["metrics"] = {"name": "heap", "value": 1.0, "labels": None}
    values["agent_events"] = {"type": "x", "message": None, "attributes": None}
    for stream in STREAMS:
        if stream in streams:
            rows = [{"ts": now - age * DAY_US + 3_600_000_000, **values[stream]} for age in ages]
            await server.fleet.telemetry.insert(stream, origin, rows)


async def shown(server: Server, stream: str = "logs", **query: Any) -> list[int]:
    """Return the ages, in days, of the rows that are found."""
    now = server.host.clock.now_us()
    rows = (await server.get(f"telemetry/{stream}", **query))["rows"]
    return [round((now - row["ts"]) / DAY_US + 0.05) for row in rows]


async def kept(server: Server, stream: Any = "logs") -> int:
    return int(await server.host.db.fetch_val(sa.select(sa.func.count()).select_from(ROWS[stream])))


async def until(condition: Callable[[], Any], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - what is awaited is in the database
            await asyncio.sleep(0.02)


async def state(server: Server, kind: str = "log") -> dict[str, Any]:
    await server.fleet.retention.settled()
    (environment,) = (await server.get("admin/retention"))["environments"]
    found: dict[str, Any] = environment[kind]
    return found


async def test_a_license_of_30_log_days_then_7_drops_what_is_older_without_a_restart(start: Start) -> None:
    server = await licensed(start)
    await install(server)
    environment = await server.environment(**MONTH)
    assert await state(server) == {"configured": 30, "cap": 30, "effective": 30, "applied": 30}
    await keep(server, environment, 1, 5, 8, 29, 31, streams=("logs", "metrics", "agent_events"))
    assert await shown(server) == [1, 5, 8, 29]
    await install(server, log=7)
    assert await state(server) == {"configured": 30, "cap": 7, "effective": 7, "applied": 7}
    assert await shown(server) == [1, 5]
    assert await shown(server, "metrics") == await shown(server, "agent_events") == [1, 5, 8, 29]

    async def deleted() -> bool:
        return await kept(server) == 2 and await kept(server, "metrics") == await kept(server, "agent_events") == 4

    await until(deleted)
    await install(server, log=30)
    assert (await state(server))["applied"] == 30
    assert await shown(server) == [1, 5]


@pytest.mark.parametrize("grace", [0, 5])
async def test_the_clock_alone_ends_a_license_and_with_it_its_retention(
    start: Start, clock: FrozenClock, grace: int
) -> None:
    server = await licensed(start)
    await install(server, exp=NOW + DAY, grace=grace)
    environment = await server.environment(**MONTH)
    await keep(server, environment, 1, 20)
    clock.now = NOW + DAY + grace * DAY - 1
    await server.host.state["licensing"].tick()
    assert (await state(server))["applied"] == 30
    clock.now += 1
    await server.host.state["licensing"].tick()
    await server.host.state["licensing"].teller.settled()
    assert await state(server) == {"configured": 30, "cap": 1, "effective": 1, "applied": 1}
    assert await shown(server) == []


async def test_what_an_environment_configures_holds_at_once_and_for_it_alone(fleet: Server) -> None:
    short, long = await fleet.environment("short", log_retention_days=30), await fleet.environment("long", **MONTH)
    await fleet.fleet.retention.settled()
    await keep(fleet, short, 1, 10)
    await keep(fleet, long, 1, 10)
    await fleet.put(f"environments/{short}", {"log_retention_days": 2})
    await fleet.fleet.retention.settled()
    assert await shown(fleet, environment_id=short) == [1]
    assert await shown(fleet, environment_id=long) == [1, 10]
    assert sorted(await shown(fleet)) == [1, 1, 10]


async def test_each_kind_has_days_of_its_own(fleet: Server) -> None:
    days: dict[str, Any] = {"execution_retention_days": 5, "log_retention_days": 10, "metric_retention_days": 20}
    environment = await fleet.environment(**days)
    await fleet.fleet.retention.settled()
    await keep(fleet, environment, 1, 8, 15, streams=("logs", "metrics", "agent_events"))
    found = {stream: await shown(fleet, stream) for stream in ("agent_events", "logs", "metrics")}
    assert found == {"agent_events": [1], "logs": [1, 8], "metrics": [1, 8, 15]}


async def test_what_is_in_no_environment_any_more_is_kept_for_a_day(fleet: Server) -> None:
    environment = await fleet.environment(**MONTH)
    await fleet.fleet.retention.settled()
    await keep(fleet, environment, 1, 2)
    await fleet.delete(f"environments/{environment}")
    await fleet.fleet.retention.settled()
    assert await shown(fleet) == [1]
    assert (await fleet.get("admin/retention"))["environments"] == []


async def test_a_process_applies_what_changed_while_none_ran(start: Start) -> None:
    server = await licensed(start)
    await install(server, log=7)
    environment = await server.environment(log_retention_days=7)
    await keep(server, environment, 1, 5)
    again = await start(stop=server)  # no licensing: no caps any more
    await again.put(f"environments/{environment}", {"log_retention_days": 3})
    assert await state(again) == {"configured": 3, "cap": None, "effective": 3, "applied": 3}
    assert await shown(again) == [1]


async def test_two_processes_agree(start: Start) -> None:
    one = await start()
    other = await start()
    environment = await one.environment(**MONTH)
    await one.fleet.retention.settled()
    await keep(one, environment, 1, 10)
    assert await shown(other) == [1, 10]
    await other.put(f"environments/{environment}", {"log_retention_days": 2})
    await other.fleet.retention.settled()
    assert await shown(one) == await shown(other) == [1]

    async def deleted() -> bool:
        return await kept(one) == 1

    await until(deleted)


async def test_a_process_that_was_slow_to_apply_undoes_nothing_newer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await start()
    environment = await one.environment(**MONTH)
    await one.fleet.retention.settled()
    apply_retention = SqlStore.apply_retention
    begins, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(store: SqlStore, retention: Retention) -> None:
        if store is not one.fleet.telemetry and not begins.is_set():
            begins.set()
            await goes_on.wait()
        await apply_retention(store, retention)

    monkeypatch.setattr(SqlStore, "apply_retention", slow)
    other = await start()
    await asyncio.wait_for(begins.wait(), 10)
    await one.put(f"environments/{environment}", {"log_retention_days": 7})
    await one.fleet.retention.settled()
    other.fleet.retention._unsubscribe()  # it hears of it by itself, not by luck
    other.fleet.retention._wanted.clear()
    goes_on.set()
    await asyncio.wait_for(other.fleet.retention.settled(), 10)
    assert await one.host.db.fetch_val(sa.select(telemetry_retention.c.log)) == 7
    assert await state(one) == {"configured": 7, "cap": None, "effective": 7, "applied": 7}


async def test_many_rows_go_in_short_batches_oldest_first(quick_start: Start) -> None:
    server = await quick_start()
    environment = await server.environment(**MONTH)
    await server.fleet.retention.settled()
    await keep(server, environment, *([1] * 10), *([20] * 1300), streams=("metrics",))
    await server.host.db.execute("UPDATE telemetry_retention SET metric = 7")
    sizes = []
    before = await kept(server, "metrics")
    while await server.fleet.telemetry.expire():
        after = await kept(server, "metrics")
        sizes.append(before - after)
        before = after
    assert sizes == [500, 500, 300]
    assert before == 10


async def test_named_batches_are_forgotten_after_a_day(fleet: Server) -> None:
    origin = Origin(await fleet.environment(), "app", "agent")
    row = {"ts": 1, "name": "heap", "value": 1.0, "labels": None}
    await fleet.fleet.telemetry.insert("metrics", origin, [row], BatchKey("batch-1", "0" * 32))
    fleet.clock.now += DAY
    await expire(fleet.fleet.telemetry, fleet.host.clock)
    count = sa.select(sa.func.count()).select_from(telemetry_batches)
    assert await fleet.host.db.fetch_val(count) == 1
    fleet.clock.now += 1
    await expire(fleet.fleet.telemetry, fleet.host.clock)
    assert await fleet.host.db.fetch_val(count) == 0


class StubbornStore:
    """A store whose retention cannot be changed until a test lets it; the far side of a cut network."""

    def __init__(self) -> None:
        self.works = asyncio.Event()
        self.asked: list[Mapping[str, RetentionDays]] = []
        self.busy = 0

    async def apply_retention(self, retention: Retention) -> None:
        self.busy += 1
        assert self.busy == 1, "two at once"
        self.asked.append(retention)
        await asyncio.sleep(0)
        self.busy -= 1
        if not self.works.is_set():
            raise StorageUnavailable("ClickHouse does not answer.")


@pytest.fixture
async def stubborn(quick_start: Start) -> AsyncIterator[tuple[Server, StubbornStore, RetentionPolicyApplier]]:
    server = await quick_start()
    await server.fleet.retention.settled()
    await server.fleet.retention.stop()
    store = StubbornStore()
    applier = RetentionPolicyApplier(server.host, store, server.fleet.metrics)  # type: ignore[arg-type]
    server.fleet.retention = applier
    yield server, store, applier
    await applier.stop()


async def test_a_failure_is_a_warning_and_a_count_and_what_was_applied_stays(
    stubborn: tuple[Server, StubbornStore, RetentionPolicyApplier],
) -> None:
    server, store, applier = stubborn
    await server.environment(log_retention_days=5)
    await applier.start()

    async def failed() -> bool:
        report = await server.get("admin/retention")
        return report["error"] == "ClickHouse does not answer." and report["failed_at"] is not None

    await until(failed)
    text = (await server.host.metrics.render()).decode()
    assert "clavitor_fleet_retention_failures_total 1.0" in text
    (environment,) = (await server.get("admin/retention"))["environments"]
    assert (environment["applied_at"], environment["log"]["applied"], environment["log"]["effective"]) == (
        None,
        None,
        5,
    )
    store.works.set()
    applier.request()
    assert (await state(server))["applied"] == 5
    assert (await server.get("admin/retention"))["error"] is None


async def test_what_failed_is_tried_again_by_itself(
    stubborn: tuple[Server, StubbornStore, RetentionPolicyApplier], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, applier = stubborn
    monkeypatch.setattr("clavitor_fleet.retention.applier.FIRST_PAUSE", 0.02)
    await applier.start()

    async def tried_thrice() -> bool:
        return len(store.asked) >= 3

    await until(tried_thrice)
    store.works.set()
    await applier.settled()


async def test_requests_that_come_together_are_one_and_nothing_is_applied_twice(
    stubborn: tuple[Server, StubbornStore, RetentionPolicyApplier],
) -> None:
    server, store, applier = stubborn
    store.works.set()
    await applier.start()
    await applier.settled()
    for _ in range(20):
        applier.request()
    await applier.settled()
    assert len(store.asked) == 1
    await server.environment(log_retention_days=5)
    for _ in range(20):
        applier.request()
    await applier.settled()
    assert len(store.asked) == 2


async def test_a_store_that_hangs_holds_up_no_license(quick_start: Start) -> None:
    server = await licensed(quick_start)
    await server.fleet.retention.settled()

    async def hang(retention: Retention) -> None:
        await asyncio.Event().wait()

    server.fleet.telemetry.apply_retention = hang  # type: ignore[method-assign]
    await server.environment()
    async with asyncio.timeout(10):
        await install(server)


async def test_no_configuration_keeps_rows_for_ever_or_not_at_all() -> None:
    from clavitor_fleet.retention.models import Policy

    days = {"a": RetentionDays(1, 3650, 100), "b": RetentionDays(7, 7, 7)}
    caps = {"execution": 0, "log": None, "metric": 2**31 - 1}
    assert Policy(days, caps).effective == {"a": RetentionDays(1, 3650, 100), "b": RetentionDays(1, 7, 7)}
