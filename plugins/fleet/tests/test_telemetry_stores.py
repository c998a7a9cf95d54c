"""What a telemetry store does, whichever it is: in SQLite, in PostgreSQL, in ClickHouse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from clavitor_fleet.telemetry.columns import COLUMNS
from clavitor_fleet.telemetry.store import (
    PAGE_BYTES,
    STREAMS,
    Aggregation,
    BatchKey,
    Measurement,
    Origin,
    RetentionDays,
    Stream,
    TelemetryStore,
    Wanted,
)
from clavitor_fleet_testing import clickhouse
from clavitor_fleet_testing.server import fresh_database, servers
from clavitor_licensing_testing.server import FrozenClock

from clavitor_host.api import Problem

DAY = 86_400_000_000
MINUTE = 60_000_000
SHOP = Origin("env-a", "shop", "agent-1")
MAIL = Origin("env-a", "mail", "agent-2")
OTHER = Origin("env-b", "shop-b", "agent-3")
DIGEST = "0" * 32
MONTH = {"env-a": RetentionDays(30, 30, 30), "env-b": RetentionDays(30, 30, 30)}


class Case:
    """A store, and a clock that says the real time until a test moves it on."""

    def __init__(self, store: TelemetryStore, clock: FrozenClock) -> None:
        self.store = store
        self.clock = clock

    @property
    def now(self) -> int:
        return self.clock.now_us()

    async def logs(
        self, *, origin: Origin = SHOP, batch: str | None = None, body: str = DIGEST, **messages: Any
    ) -> bool:
        """Keep a log line for each `message=age in µs`; return whether they had been kept."""
        rows = [row("logs", self.now - age, message=message) for message, age in messages.items()]
        return await self.store.insert("logs", origin, rows, None if batch is None else BatchKey(batch, body))

    async def found(self, **wanted: Any) -> list[str]:
        """Return the messages of the log lines that are found, page by page."""
        messages: list[str] = []
        cursor = None
        while True:
            page = await self.store.find(Wanted("logs", cursor=cursor, **wanted))
            messages += [one["message"] for one in page.rows]
            cursor = page.cursor
            if cursor is None:
                return messages

    async def metric(self, name: str, *values: float, origin: Origin = SHOP, age: int = 0) -> None:
        """Keep values, a µs apart; the last one is `age` old."""
        rows = [
            row("metrics", self.now - age - offset, name=name, value=value) for offset, value in enumerate(values[::-1])
        ]
        await self.store.insert("metrics", origin, rows)

    async def measure(self, name: str, aggregation: Aggregation, **more: Any) -> float | None:
        (value,) = await self.store.measure([self.asked(name, aggregation, **more)])
        return value

    def asked(self, name: str, aggregation: Aggregation, **more: Any) -> Measurement:
        usual = {"kind": "metric", "environment_id": None, "app_id": None, "since": self.now - DAY // 2}
        return Measurement(**{**usual, "until": self.now + 1, **more}, name=name, aggregation=aggregation)


def row(stream: Stream, ts: int, **values: Any) -> dict[str, Any]:
    """Return a row with every column; those that must not be None have some value."""
    made: dict[str, Any] = {"ts": ts}
    for name, column in COLUMNS[stream].items():
        example = {"text": f"some {name}", "json": '{"a":[1,"ü"]}', "integer": 7, "real": 1.5}[column.kind]
        made[name] = example if column.required else None
    return {**made, **values}


def full_row(stream: Stream, ts: int) -> dict[str, Any]:
    """Return a row with a value in every column."""
    given = {"text": 'it\'s \\ a "ü"\n\tline; {x:String}', "json": '{"k":"\'\\\\"}', "integer": 2**53 + 1, "real": 0.1}
    return {"ts": ts, **{name: given[column.kind] for name, column in COLUMNS[stream].items()}}


@pytest.fixture(params=["sqlite", "postgresql", "clickhouse"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    clock = FrozenClock(int(time.time()))
    if request.param == "clickhouse":
        folder = request.getfixturevalue("chdb_folder")
        with clickhouse.database(folder) as url:
            store = clickhouse.store(url, clock)
            await store.start()
            yield Case(store, clock)
            await store.stop()
        return
    async with fresh_database(request.param, tmp_path) as url, servers(tmp_path, url, clock) as start:
        server = await start()
        await server.fleet.retention.stop()  # the tests apply what they want
        yield Case(server.fleet.telemetry, clock)


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_row_is_found_as_it_was_inserted(case: Case, stream: Stream) -> None:
    full, sparse = full_row(stream, case.now - 1), row(stream, case.now - 2)
    await case.store.insert(stream, SHOP, [full, sparse])
    page = await case.store.find(Wanted(stream))
    ids = [one["id"] for one in page.rows]
    assert len(set(ids)) == 2
    assert [{**one, "id": None} for one in page.rows] == [
        {"id": None, **SHOP._asdict(), **one} for one in (full, sparse)
    ]
    assert page.cursor is None


async def test_rows_of_one_insert_may_be_of_several_agents(case: Case) -> None:
    rows = [row("agent_events", case.now - 1, type="x", agent_id=name) for name in ("one", "two")]
    await case.store.insert("agent_events", SHOP, rows)
    page = await case.store.find(Wanted("agent_events"))
    assert sorted(one["agent_id"] for one in page.rows) == ["one", "two"]


async def test_nothing_is_found_where_nothing_is(case: Case) -> None:
    assert await case.store.find(Wanted("logs")) == ([], None)
    await case.store.insert("logs", SHOP, [])
    assert await case.found() == []


async def test_rows_are_found_by_environment_app_agent_and_time(case: Case) -> None:
    await case.logs(a=1, b=2_000_000, origin=SHOP)
    await case.logs(c=3, origin=MAIL)
    await case.logs(d=4, origin=OTHER)
    assert await case.found() == ["a", "c", "d", "b"]
    assert await case.found(environment_id="env-a") == ["a", "c", "b"]
    assert await case.found(app_id="shop-b") == ["d"]
    assert await case.found(agent_id="agent-2") == ["c"]
    assert await case.found(environment_id="env-b", app_id="shop") == []
    assert await case.found(since=case.now - 3) == ["a", "c"]
    assert await case.found(until=case.now - 3) == ["d", "b"]
    assert await case.found(since=case.now - 3, until=case.now - 1) == ["c"]


async def test_rows_are_found_by_an_exact_value(case: Case) -> None:
    levels = ("INFO", "WARN", "info", "INFO", "it's \\ {value:String}")
    rows = [row("logs", case.now - age, level=level, message=str(age)) for age, level in enumerate(levels)]
    await case.store.insert("logs", SHOP, rows)
    await case.store.insert("logs", OTHER, rows[:1])
    assert await case.found(value="INFO", environment_id="env-a", limit=1) == ["0", "3"]
    assert await case.found(value="INFO") == ["0", "0", "3"]
    assert await case.found(value="INFO", since=case.now - 2) == ["0", "0"]
    assert await case.found(value=levels[4]) == ["4"]
    assert await case.found(value="I%") == []


async def test_pages_show_every_row_once_also_those_of_one_time(case: Case) -> None:
    rows = [row("logs", case.now - number // 7, message=str(number)) for number in range(50)]
    await case.store.insert("logs", SHOP, rows[:30])
    await case.store.insert("logs", OTHER, rows[30:])
    found = await case.found(limit=3)
    assert sorted(found, key=int) == [str(number) for number in range(50)]
    assert [int(number) // 7 for number in found] == sorted(int(number) // 7 for number in found)


@pytest.mark.parametrize("letter", ["x", "ü"])
async def test_a_page_ends_after_8_mib_and_the_next_goes_on(case: Case, letter: str) -> None:
    letters = PAGE_BYTES // 4 // len(letter.encode())
    diagrams = dict.fromkeys("abcdef", letters - 100) | {"huge": letters * 5, "last": 1}
    for age, (name, length) in enumerate(diagrams.items()):
        diagram = row("route_diagrams", case.now - age, route=name, diagram=f'"{letter * length}"')
        await case.store.insert("route_diagrams", SHOP, [diagram])
    page = await case.store.find(Wanted("route_diagrams", limit=8))
    pages = [[one["route"] for one in page.rows]]
    while page.cursor is not None:
        page = await case.store.find(Wanted("route_diagrams", limit=8, cursor=page.cursor))
        pages.append([one["route"] for one in page.rows])
    assert pages == [["a", "b", "c", "d"], ["e", "f"], ["huge"], ["last"]]


@pytest.mark.parametrize("last", ["", "x", "1e3", "'", "9" * 40, "-1"])
async def test_a_cursor_that_cannot_be_is_a_400(case: Case, last: str) -> None:
    with pytest.raises(Problem) as refused:
        await case.store.find(Wanted("logs", cursor=(case.now, last)))
    assert (refused.value.status, refused.value.extra["field"]) == (400, "cursor")


async def test_a_named_batch_is_kept_once_within_a_day(case: Case) -> None:
    assert not await case.logs(one=1, two=2, batch="b")
    assert await case.logs(one=1, two=2, batch="b")
    case.clock.now += 1
    assert await case.logs(one=1, two=2, batch="b")  # another time, as of rows that had none
    assert not await case.logs(three=3, batch="c")
    assert await case.found() == ["three", "one", "two"]


async def test_another_body_under_a_kept_name_is_a_409(case: Case) -> None:
    await case.logs(one=1, batch="b")
    for _ in range(2):
        with pytest.raises(Problem) as refused:
            await case.logs(two=2, batch="b", body="f" * 32)
        assert (refused.value.status, refused.value.code) == (409, "idempotency_key_reused")
    assert await case.logs(one=1, batch="b")
    assert not await case.logs(three=3, batch="c", body="f" * 32)
    assert await case.found() == ["one", "three"]


async def test_of_two_bodies_under_one_name_at_once_one_is_kept(case: Case) -> None:
    both = [case.logs(a=1, batch="b"), case.logs(b=1, batch="b", body="f" * 32)]
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert {type(first), type(second)} == {bool, Problem}
    assert len(await case.found()) == 1


async def test_a_batch_of_the_same_name_is_another_of_another_agent_or_stream(case: Case) -> None:
    await case.logs(one=1, batch="b")
    await case.logs(two=2, batch="b", origin=MAIL)
    await case.store.insert("metrics", SHOP, [row("metrics", case.now)], BatchKey("b", DIGEST))
    assert await case.found() == ["one", "two"]
    assert len((await case.store.find(Wanted("metrics"))).rows) == 1


async def test_batches_without_a_name_are_all_kept(case: Case) -> None:
    await case.logs(one=1)
    await case.logs(one=1)
    assert await case.found() == ["one", "one"]


async def test_the_same_batch_many_times_at_once_is_kept_once(case: Case) -> None:
    def other(number: int) -> dict[str, Any]:
        return {f"other{number}": number}

    same = [case.logs(one=1, two=2, batch="b") for _ in range(5)]
    await asyncio.gather(*same, *(case.logs(**other(number)) for number in range(5)))
    found = await case.found()
    assert sorted(found) == ["one", *(f"other{number}" for number in range(5)), "two"]


async def test_many_batches_at_once_are_all_kept(case: Case) -> None:
    async def one(number: int) -> None:
        rows = [row("logs", case.now - place, message=f"{number}-{place}") for place in range(100)]
        await case.store.insert("logs", (SHOP, MAIL, OTHER)[number % 3], rows)

    await asyncio.gather(*(one(number) for number in range(40)))
    found = await case.found(limit=1000)
    assert len(found) == len(set(found)) == 4000


AGGREGATES: list[tuple[Aggregation, float]] = [
    ("avg", 2.75),
    ("sum", 11),
    ("min", 1),
    ("max", 5),
    ("last", 2),
    ("count", 4),
]


@pytest.mark.parametrize(("aggregation", "expected"), AGGREGATES)
async def test_values_of_a_metric_are_aggregated(case: Case, aggregation: Aggregation, expected: float) -> None:
    await case.metric("cpu", 1, 5, 3, 2)
    await case.metric("memory", 1000)
    assert await case.measure("cpu", aggregation) == expected


async def test_values_that_no_sum_has_room_for_hurt_no_other_measurement(case: Case) -> None:
    await case.metric("largest", *[1e100] * 3, -1e100)
    await case.metric("beyond", 1.7e308, 1.7e308)
    await case.metric("cpu", 1, 3)
    names = ("largest", "beyond", "cpu")
    asked = [case.asked(name, aggregation) for name in names for aggregation in ("avg", "sum", "max", "count")]
    measured = await case.store.measure(asked)
    assert list(measured) == pytest.approx([5e99, 2e100, 1e100, 4, None, None, 1.7e308, 2, 2, 4, 3, 2])


async def test_a_measurement_is_of_its_window_environment_and_app(case: Case) -> None:
    await case.metric("cpu", 1, 2, origin=SHOP)
    await case.metric("cpu", 10, origin=MAIL)
    await case.metric("cpu", 100, origin=OTHER)
    await case.metric("cpu", 1000, origin=SHOP, age=10)
    assert await case.measure("cpu", "sum") == 1113
    assert await case.measure("cpu", "sum", environment_id="env-a") == 1013
    assert await case.measure("cpu", "sum", app_id="shop") == 1003
    assert await case.measure("cpu", "sum", environment_id="env-b", app_id="shop-b") == 100
    assert await case.measure("cpu", "sum", environment_id="env-b", app_id="shop") is None
    assert await case.measure("cpu", "sum", since=case.now - 1) == 113
    assert await case.measure("cpu", "sum", until=case.now - 1) == 1000


async def test_where_there_is_nothing_a_count_is_0_and_the_rest_none(case: Case) -> None:
    for aggregation, _ in AGGREGATES:
        assert await case.measure("cpu", aggregation) == (0 if aggregation == "count" else None)
    assert await case.measure("started", "count", kind="event") == 0
    assert list(await case.store.measure([])) == []


async def test_events_are_counted_by_type(case: Case) -> None:
    events = [row("agent_events", case.now - age, type=kind) for age, kind in enumerate(("up", "down", "up"))]
    await case.store.insert("agent_events", SHOP, events)
    await case.metric("up", 1)
    assert await case.measure("up", "count", kind="event") == 2
    assert await case.measure("up", "count", kind="event", since=case.now) == 1
    assert await case.measure("down", "count", kind="event", environment_id="env-b") == 0


async def test_many_measurements_are_answered_in_their_order(case: Case) -> None:
    for number in range(5):
        await case.metric(f"m{number}", number, number + 1)
    asked = [case.asked(f"m{number % 6}", ("avg", "max", "last")[number % 3]) for number in range(450)]
    asked.insert(7, case.asked("m1", "count", kind="event"))
    singly = [(await case.store.measure([one]))[0] for one in asked[:12]]
    values = await case.store.measure(asked)
    assert len(values) == 451
    assert list(values[:12]) == singly
    assert (values[7], values[0], values[1], values[5]) == (0, 0.5, 2, None)


async def test_names_are_taken_as_they_are(case: Case) -> None:
    name = "it's {x:String} \\ \"%\" ü\t'); DROP TABLE metrics --"
    await case.metric(name, 3)
    assert await case.measure(name, "last") == 3
    assert await case.measure(name, "last", environment_id=name) is None
    assert await case.found(environment_id=name, app_id=name, agent_id=name) == []


async def test_rows_of_environments_that_are_not_named_are_kept_for_a_day(case: Case) -> None:
    await case.store.apply_retention({"env-a": RetentionDays(1, 3, 1)})
    await case.logs(a=2 * DAY, origin=SHOP)
    await case.logs(b=DAY - MINUTE, c=DAY + MINUTE, origin=OTHER)
    assert await case.found() == ["b", "a"]
    assert await case.found(environment_id="env-b") == ["b"]


async def test_what_is_over_is_neither_found_nor_measured(case: Case) -> None:
    await case.store.apply_retention({"env-a": RetentionDays(1, 2, 3), "env-b": RetentionDays(3, 3, 1)})
    await case.logs(new=0, old=DAY)
    await case.metric("cpu", 1, age=DAY)
    await case.metric("cpu", 10, age=DAY - 10 * MINUTE, origin=OTHER)
    window = {"since": 0}
    assert await case.measure("cpu", "sum", **window) == 11
    case.clock.now += 660
    assert await case.measure("cpu", "sum", **window) == 1
    case.clock.now += 86_400 - 660 - 1
    assert await case.found() == ["new", "old"]
    case.clock.now += 2
    assert await case.found() == ["new"]
    assert await case.found(environment_id="env-a") == ["new"]
    case.clock.now += 2 * 86_400
    assert await case.found() == []
    assert await case.measure("cpu", "count", **window) == 0


async def test_each_stream_follows_its_own_days(case: Case) -> None:
    await case.store.apply_retention({"env-a": RetentionDays(execution=2, log=5, metric=9)})
    for stream in STREAMS:
        await case.store.insert(stream, SHOP, [row(stream, case.now - days * DAY - MINUTE) for days in range(12)])
    left = {stream: len((await case.store.find(Wanted(stream))).rows) for stream in STREAMS}
    assert left == {**dict.fromkeys(STREAMS, 2), "logs": 5, "metrics": 9}


async def test_lowered_retention_takes_the_old_rows_away_and_keeps_the_rest(case: Case) -> None:
    await case.store.apply_retention(MONTH)
    ages: dict[str, Any] = {f"d{days}": days * DAY + MINUTE for days in (0, 6, 7, 20)}
    await case.logs(**ages)
    others: dict[str, Any] = {f"b{name}": age for name, age in ages.items()}
    await case.logs(**others, origin=OTHER)
    await case.store.apply_retention({**MONTH, "env-a": RetentionDays(30, 7, 30)})
    assert await case.found(environment_id="env-a") == ["d0", "d6"]
    assert await case.found(environment_id="env-b") == ["bd0", "bd6", "bd7", "bd20"]
    while await case.store.expire():
        pass
    await case.store.apply_retention(MONTH)
    deadline = time.monotonic() + 30
    while await case.found(environment_id="env-a") != ["d0", "d6"]:  # what is gone does not come back
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert await case.found(environment_id="env-b") == ["bd0", "bd6", "bd7", "bd20"]


async def test_applying_the_same_retention_again_does_nothing(case: Case) -> None:
    await case.logs(a=0)
    for _ in range(3):
        await case.store.apply_retention(MONTH)
    assert await case.found() == ["a"]
    await case.store.apply_retention({})
    assert await case.found() == ["a"]


@pytest.mark.parametrize("days", [1, 3650])
async def test_the_least_and_the_most_days_keep_what_is_new(case: Case, days: int) -> None:
    await case.store.apply_retention({"env-a": RetentionDays(days, days, days)})
    await case.logs(new=0, old=days * DAY + MINUTE)
    assert await case.found() == ["new"]


async def test_very_old_rows_do_no_harm(case: Case) -> None:
    await case.store.apply_retention(MONTH)
    await case.store.insert("logs", SHOP, [row("logs", day * DAY, message="old") for day in range(500)])
    await case.logs(new=0)
    assert await case.found() == ["new"]
    assert not await case.store.expire() or await case.found() == ["new"]
