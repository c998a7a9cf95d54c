"""What only ClickHouse does: the TTL of its tables, batches that go together, and what a URL may say."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from clavitor_fleet.config import FleetConfig
from clavitor_fleet.telemetry.clickhouse_batches import Batch, Batches, Outcome
from clavitor_fleet.telemetry.clickhouse_calls import Calls
from clavitor_fleet.telemetry.clickhouse_retention import applied
from clavitor_fleet.telemetry.clickhouse_store import ClickHouseStore
from clavitor_fleet.telemetry.clickhouse_target import parse_target
from clavitor_fleet.telemetry.clickhouse_ttl import applied_days, days_of
from clavitor_fleet.telemetry.store import STREAMS, BatchKey, Origin, RetentionDays, Wanted
from clavitor_fleet_testing import clickhouse
from clavitor_fleet_testing.server import Server, servers
from clavitor_licensing_testing.server import FrozenClock, environ, token
from pydantic import ValidationError

from clavitor_host.api import ConfigError, StartError, StorageUnavailable

DAY = 86_400_000_000
MINUTE = 60_000_000
SHOP = Origin("env-a", "shop", "agent-1")


@pytest.fixture
def url(chdb_folder: Path) -> Iterator[str]:
    with clickhouse.database(chdb_folder) as made:
        yield made


@pytest.fixture
async def store(url: str) -> AsyncIterator[ClickHouseStore]:
    made = clickhouse.store(url, FrozenClock(int(time.time())))
    await made.start()
    assert await made.check() is None
    yield made
    await made.stop()


@pytest.fixture
def client(url: str, store: ClickHouseStore) -> Iterator[Any]:
    from clickhouse_connect import get_client

    made = get_client(dsn=url.partition("?")[0], database=url.rpartition("=")[2])
    yield made
    made.close()


def logs(*ages: int) -> list[dict[str, Any]]:
    now = int(time.time()) * 1_000_000
    return [{"ts": now - age, "level": "INFO", "message": str(age), "logger": None, "attributes": None} for age in ages]


def ttl(client: Any, table: str) -> str:
    return str(
        client.command(
            f"SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = '{table}'"
        )
    )


def alterations(client: Any) -> list[str]:
    """Return the changes of data that were asked for."""
    found = client.query("SELECT command FROM system.mutations WHERE database = currentDatabase()")
    return [row[0] for row in found.result_rows]


def same(days: int, *environments: str) -> dict[str, RetentionDays]:
    return {name: RetentionDays(days, days, days) for name in environments}


async def test_lowered_retention_takes_rows_from_the_disk(store: ClickHouseStore, client: Any) -> None:
    await store.apply_retention(same(30, "env-a", "env-b"))
    for origin in (SHOP, Origin("env-b", "b", "b")):
        await store.insert("logs", origin, logs(*(days * DAY + MINUTE for days in (0, 3, 8, 20))))
    assert clickhouse.rows_of(client, "logs") == 8
    await store.apply_retention(same(30, "env-b") | same(7, "env-a"))
    deadline = time.monotonic() + 30
    while clickhouse.rows_of(client, "logs") != 6:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    left = client.query("SELECT environment_id, count() FROM logs GROUP BY 1 ORDER BY 1").result_rows
    assert [tuple(row) for row in left] == [("env-a", 2), ("env-b", 4)]


async def test_lengthened_retention_keeps_what_is_there(store: ClickHouseStore, client: Any) -> None:
    await store.apply_retention(same(7, "env-a"))
    await store.insert("logs", SHOP, logs(MINUTE, 6 * DAY))
    await store.apply_retention(same(30, "env-a"))
    client.command("OPTIMIZE TABLE logs FINAL")
    assert clickhouse.rows_of(client, "logs") == 2
    assert alterations(client).count("(MATERIALIZE TTL)") == 1


async def test_the_days_that_hold_are_read_back_from_the_tables(store: ClickHouseStore, client: Any) -> None:
    assert applied(client) == {}
    await store.apply_retention(
        {"env-a": RetentionDays(execution=5, log=1, metric=30), "env-b": RetentionDays(1, 2, 3)}
    )
    held = applied(client)
    assert held["logs"] == {"env-b": 2}
    assert held["metrics"] == {"env-a": 30, "env-b": 3}
    assert held["executions"] == held["processors"] == held["route_diagrams"] == held["agent_events"] == {"env-a": 5}
    await store.apply_retention({})
    assert applied(client) == {stream: {} for stream in STREAMS}


async def test_a_process_goes_by_what_another_has_applied(store: ClickHouseStore, url: str) -> None:
    clock = FrozenClock(int(time.time()) + 6 * 86_400)
    other = clickhouse.store(url, clock)
    await store.apply_retention(same(5, "env-a"))
    await store.insert("logs", SHOP, logs(0))
    assert (await other.find(Wanted("logs"))).rows == []
    await store.apply_retention(same(9, "env-a"))
    clock.ahead += 20
    assert len((await other.find(Wanted("logs"))).rows) == 1
    await other.stop()


async def test_what_is_so_already_is_not_changed_again(store: ClickHouseStore, client: Any) -> None:
    await store.apply_retention(same(30, "env-a"))
    before, made = [ttl(client, stream) for stream in STREAMS], _changed_at(client)
    await store.apply_retention(same(30, "env-a"))
    assert ([ttl(client, stream) for stream in STREAMS], _changed_at(client)) == (before, made)


def _changed_at(client: Any) -> list[Any]:
    columns = "name, metadata_modification_time, metadata_version"
    query = f"SELECT {columns} FROM system.tables WHERE database = currentDatabase()"
    return [tuple(row) for row in client.query(query).result_rows]


async def test_a_new_environment_has_no_table_gone_through(store: ClickHouseStore, client: Any) -> None:
    await store.apply_retention(same(30, "env-a"))
    await store.insert("logs", SHOP, logs(DAY))
    await store.apply_retention(same(30, "env-a", "env-new"))
    assert alterations(client) == []
    await store.apply_retention(same(9, "env-a") | same(30, "env-new"))
    assert "(MATERIALIZE TTL)" in alterations(client)


async def test_rows_that_came_before_their_environments_retention_are_kept_by_it(
    store: ClickHouseStore, client: Any
) -> None:
    await store.apply_retention(same(30, "env-b"))
    await store.insert("logs", SHOP, logs(MINUTE))
    await store.apply_retention(same(30, "env-a", "env-b"))
    assert alterations(client) == ["(MATERIALIZE TTL)"]


async def test_thousands_of_environments_fit_into_a_table(store: ClickHouseStore, client: Any) -> None:
    many = {str(uuid4()): RetentionDays(7, 2 + number % 9, 30) for number in range(3000)}
    await store.apply_retention({**many, "env-a": RetentionDays(30, 30, 30)})
    assert applied(client)["logs"] == {name: days.log for name, days in sorted(many.items())} | {"env-a": 30}
    await store.insert("logs", SHOP, logs(20 * DAY, 40 * DAY))
    assert [row["message"] for row in (await store.find(Wanted("logs"))).rows] == [str(20 * DAY)]


@pytest.mark.parametrize(("asked", "given"), [(0, {}), (-5, {}), (1, {}), (2, {"e": 2}), (99_999, {"e": 3650})])
def test_days_are_1_to_3650(asked: int, given: dict[str, int]) -> None:
    assert days_of(same(asked, "e"), "logs") == given


@pytest.mark.parametrize("said", ["", "CREATE TABLE t (ts DateTime) TTL ts + toIntervalDay(9) SETTINGS x = 1"])
def test_a_ttl_of_another_is_not_taken_for_ours(said: str) -> None:
    assert applied_days(said) is None


async def test_a_table_that_cannot_be_changed_is_named_and_keeps_what_it_had(
    store: ClickHouseStore, client: Any
) -> None:
    await store.apply_retention(same(30, "env-a"))
    await store.insert("logs", SHOP, logs(MINUTE, 10 * DAY))
    client.command("RENAME TABLE metrics TO kept")
    client.command("CREATE VIEW metrics AS SELECT * FROM kept")
    client.command("RENAME TABLE logs TO kept_logs")
    client.command("CREATE VIEW logs AS SELECT * FROM kept_logs")
    with pytest.raises(StorageUnavailable) as failed:
        await store.apply_retention(same(7, "env-a"))
    detail = failed.value.detail
    assert "metrics" in detail
    assert "logs" in detail
    assert "executions" not in detail
    assert "\n" not in detail
    assert applied(client)["executions"] == {"env-a": 7}
    assert len((await store.find(Wanted("logs"))).rows) == 2
    client.command("DROP VIEW logs")
    client.command("RENAME TABLE kept_logs TO logs")
    client.command("DROP VIEW metrics")
    client.command("RENAME TABLE kept TO metrics")
    await store.apply_retention(same(7, "env-a"))
    assert len((await store.find(Wanted("logs"))).rows) == 1


async def test_tables_that_were_lost_are_made_anew_with_their_retention(store: ClickHouseStore, client: Any) -> None:
    await store.apply_retention(same(9, "env-a"))
    for stream in STREAMS:
        client.command(f"DROP TABLE {stream}")
    await store.insert("logs", SHOP, logs(MINUTE))
    assert applied(client) == {stream: {"env-a": 9} for stream in STREAMS}
    assert clickhouse.rows_of(client, "logs") == 1


async def test_a_named_batch_of_which_a_part_was_kept_is_completed(store: ClickHouseStore, client: Any) -> None:
    await store.apply_retention(same(30, "env-a"))
    rows = logs(MINUTE, 2 * DAY, 3 * DAY)
    await store.insert("logs", SHOP, rows, BatchKey("b", "0" * 32))
    client.command(
        "ALTER TABLE logs DELETE WHERE message = {m:String}",
        parameters={"m": str(2 * DAY)},
        settings={"mutations_sync": 1},
    )
    await store.insert("logs", SHOP, rows, BatchKey("b", "0" * 32))
    assert [row["message"] for row in (await store.find(Wanted("logs"))).rows] == [row["message"] for row in rows]


async def test_batches_that_wait_go_together(store: ClickHouseStore, client: Any) -> None:
    await asyncio.gather(*(store.insert("logs", SHOP, logs(number)) for number in range(200)))
    assert clickhouse.rows_of(client, "logs") == 200
    blocks = client.command(
        "SELECT max(max_block_number) FROM system.parts WHERE database = currentDatabase() AND table = 'logs'"
    )
    assert int(blocks) < 20


async def test_a_batch_that_cannot_be_written_fails_alone() -> None:
    sent: list[list[str]] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def send(batches: Any) -> list[Outcome]:
        begun.set()
        await go.wait()
        if any(batch.id == "bad" for batch in batches):
            raise ValueError("no such number")
        sent.append([batch.id for batch in batches])
        return ["kept"] * len(batches)

    batches = Batches(send)
    tasks = [asyncio.create_task(batches.add(Batch(SHOP, "first", False, [{}])))]
    await begun.wait()
    tasks += [asyncio.create_task(batches.add(Batch(SHOP, name, False, [{}]))) for name in ("a", "bad", "b")]
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [str, str, ValueError, str]
    assert sent == [["first"], ["a"], ["b"]]


async def test_more_than_fits_into_memory_is_refused() -> None:
    async def send(batches: Any) -> list[Outcome]:
        await asyncio.Event().wait()
        return []

    batches = Batches(send)
    tasks = [asyncio.create_task(batches.add(Batch(SHOP, "x", False, [{}] * 20_000))) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(StorageUnavailable) as refused:
        await batches.add(Batch(SHOP, "y", False, [{}]))
    assert refused.value.headers == {"Retry-After": "1"}
    await batches.stop(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {StorageUnavailable}


async def test_calls_that_wait_are_bounded() -> None:
    import threading

    go = threading.Event()
    calls = Calls("test", threads=1, waiting=1)
    tasks = [asyncio.create_task(calls.run(go.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(StorageUnavailable):
        await calls.run(lambda: None)
    go.set()
    assert await asyncio.gather(*tasks) == [True, True]
    assert await calls.run(lambda: 5) == 5
    calls.stop()


GOOD = {
    "clickhouse://h/db": ("h", 8123, False, "default", "", "db"),
    "clickhouses://u:p%40%2F@h.example:9000/": ("h.example", 9000, True, "u", "p@/", "default"),
    "clickhouse://[::1]:1": ("::1", 1, False, "default", "", "default"),
}


@pytest.mark.parametrize("text", GOOD)
def test_what_a_url_says(text: str) -> None:
    assert parse_target(text)[:6] == GOOD[text]


def test_a_url_may_name_the_authorities_to_trust() -> None:
    assert parse_target("clickhouses://h/db?ca_file=/etc/ca.pem").ca_file == "/etc/ca.pem"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://u:secret@h/db",
        "clickhouse://",
        "clickhouse://u:secret@/db",
        "clickhouse://u:secret@h:0/db",
        "clickhouse://u:secret@h:99999/db",
        "clickhouse://u:secret@h/d'b",
        "clickhouse://u:secret@h/a/b",
        "clickhouse://u:secret@h/db?ca_file=/x",
        "clickhouses://u:secret@h/db?verify=secret",
        "clickhouse://u:secret@h/db#secret",
        "chdb://secret/x",
        "clickhouse://u:secret@[h/db",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_target(text)
    assert "secret" not in str(refused.value)
    with pytest.raises(ValidationError) as invalid:
        FleetConfig.model_validate({"telemetry_url": text})
    assert invalid.value.errors()[0]["loc"] == ("telemetry_url",)


async def test_without_the_library_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clickhouse_connect", None)
    with pytest.raises(StartError, match=r"install clavitor-fleet\[clickhouse\]"):
        await clickhouse.store("clickhouse://h/db", FrozenClock()).start()


async def test_a_license_of_30_log_days_then_7_takes_rows_from_the_disk_without_a_restart(
    url: str, client: Any, tmp_path: Path
) -> None:
    now = int(time.time())
    caps = {f"max_{kind}_retention_days": 30 for kind in ("execution", "log", "metric")}
    month: dict[str, Any] = {f"{kind}_retention_days": 30 for kind in ("execution", "log", "metric")}
    clock = FrozenClock(now)

    async def install(server: Server, log_days: int) -> None:
        limits = {**caps, "max_log_retention_days": log_days}
        signed = token(exp=now + 365 * 86_400, iat=now - 60, limits=limits)
        await server.post("admin/license", {"token": signed}, expect=200)
        await server.host.state["licensing"].teller.settled()
        await server.fleet.retention.settled()

    async with servers(tmp_path, f"sqlite:///{tmp_path}/vault.db", clock) as start:
        server = await start(licensing=True, CLAVITOR_FLEET_TELEMETRY_URL=url, **environ())
        await install(server, 30)
        environment = await server.environment(**month)
        await server.fleet.retention.settled()
        origin = Origin(environment, "shop", "agent")
        await server.fleet.telemetry.insert("logs", origin, logs(MINUTE, 5 * DAY, 8 * DAY, 29 * DAY))
        assert len((await server.get("telemetry/logs"))["rows"]) == 4
        await install(server, 7)
        assert len((await server.get("telemetry/logs"))["rows"]) == 2
        deadline = time.monotonic() + 30
        while clickhouse.rows_of(client, "logs") != 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        (shown,) = (await server.get("admin/retention"))["environments"]
        assert (shown["log"]["effective"], shown["log"]["applied"]) == (7, 7)
