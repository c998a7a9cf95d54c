"""ClickHouse over HTTP, and what happens while it is away: the vault serves, telemetry is answered 503, and nothing
that was answered is lost."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_fleet.telemetry.store import BatchKey, Measurement, Origin, RetentionDays, Wanted
from clavitor_fleet_testing import clickhouse
from clavitor_fleet_testing.clickhouse import PASSWORD, Served
from clavitor_fleet_testing.server import Server, servers
from clavitor_licensing_testing.server import FrozenClock

from clavitor_host.api import StorageUnavailable

SHOP = Origin("env-a", "shop", "agent-1")
MONTH = {"env-a": RetentionDays(30, 30, 30)}


@pytest.fixture
def served() -> Iterator[Served]:
    with clickhouse.served() as server:
        yield server


@pytest.fixture
def now() -> FrozenClock:
    return FrozenClock(int(time.time()))


def logs(count: int) -> list[dict[str, Any]]:
    now = int(time.time()) * 1_000_000
    empty = {"level": "INFO", "logger": None, "attributes": '{"ü":"\'"}'}
    return [{"ts": now - number, "message": str(number), **empty} for number in range(count)]


async def test_rows_go_over_http_and_come_back(served: Served, now: FrozenClock) -> None:
    served.start()
    store = clickhouse.store(served.url, now)
    await store.apply_retention(MONTH)
    await store.insert("logs", SHOP, logs(1000), BatchKey("b", "0" * 32))
    await store.insert("logs", SHOP, logs(1000), BatchKey("b", "0" * 32))
    page = await store.find(Wanted("logs", environment_id="env-a", limit=1000))
    assert [row["message"] for row in page.rows] == [str(number) for number in range(1000)]
    assert page.rows[0]["attributes"] == '{"ü":"\'"}'
    value = {"ts": now.now_us(), "name": "cpu", "value": 2.5, "labels": None}
    await store.insert("metrics", SHOP, [value])
    asked = Measurement("metric", "cpu", "env-a", None, now.now_us() - 5, now.now_us() + 5, "last")
    many = [asked] * 60  # more than a URL takes
    assert await store.measure(many) == [2.5] * 60
    assert await store.check() is None
    await store.stop()


async def test_an_insert_is_refused_while_it_is_away_and_taken_when_it_is_back(
    served: Served, now: FrozenClock
) -> None:
    store = clickhouse.store(served.url, now)
    await store.start()
    with pytest.raises(StorageUnavailable) as refused:
        await store.insert("logs", SHOP, logs(3), BatchKey("b", "0" * 32))
    assert refused.value.status == 503
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert await store.check() == "ClickHouse cannot be reached."
    served.start()
    now.ahead += 60
    await store.insert("logs", SHOP, logs(3), BatchKey("b", "0" * 32))
    assert await store.check() is None
    served.stop()
    with pytest.raises(StorageUnavailable):
        await store.find(Wanted("logs"))
    served.start()
    now.ahead += 60
    await store.insert("logs", SHOP, logs(3), BatchKey("b", "0" * 32))
    assert len((await store.find(Wanted("logs"))).rows) == 3
    await store.stop()


async def test_callers_are_spared_while_it_does_not_answer(now: FrozenClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"clickhouse://127.0.0.1:{closed.getsockname()[1]}/db"
    store = clickhouse.store(url, now)
    with pytest.raises(StorageUnavailable):
        await store.find(Wanted("logs"))
    with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2].removesuffix("/db")))) as listening:
        listening.settimeout(0.2)
        with pytest.raises(StorageUnavailable):
            await store.find(Wanted("logs"))
        with pytest.raises(TimeoutError):
            listening.accept()  # it was not asked again
    await store.stop()


async def test_an_insert_whose_answer_was_lost_is_not_kept_twice(served: Served, now: FrozenClock) -> None:
    store = clickhouse.store(served.url, now)
    served.start()
    await store.apply_retention(MONTH)
    served.stop()
    served.start(DIE_AFTER_INSERT="1")
    now.ahead += 60
    with pytest.raises(StorageUnavailable):
        await store.insert("logs", SHOP, logs(10), BatchKey("b", "0" * 32))
    served.wait_dead()
    served.start()
    now.ahead += 60
    assert len((await store.find(Wanted("logs"))).rows) == 10
    await store.insert("logs", SHOP, logs(10), BatchKey("b", "0" * 32))
    assert len((await store.find(Wanted("logs"))).rows) == 10
    await store.stop()


async def test_a_wrong_password_is_said_and_not_repeated(served: Served, now: FrozenClock) -> None:
    served.start()
    store = clickhouse.store(served.url.replace("wrong", "other"), now)
    with pytest.raises(StorageUnavailable) as refused:
        await store.find(Wanted("logs"))
    assert "516" in refused.value.detail
    assert PASSWORD not in refused.value.detail
    assert "horse" not in refused.value.detail
    await store.stop()


async def _ready(server: Server) -> Any:
    return (await server.admin.get("/readyz")).json()


async def test_the_vault_starts_and_serves_without_it(served: Served, now: FrozenClock, tmp_path: Path) -> None:
    async with servers(tmp_path, f"sqlite:///{tmp_path}/vault.db", now) as start:
        server = await start(CLAVITOR_FLEET_TELEMETRY_URL=served.url)
        environment = await server.environment()
        assert (await server.admin.put("/api/entries/key", json={"encrypted_data": "AAAA"})).status_code == 201
        refused: httpx.Response = await server.admin.get("/api/v1/telemetry/logs")
        assert (refused.status_code, refused.json()["code"]) == (503, "telemetry_unavailable")
        assert int(refused.headers["Retry-After"]) >= 1
        ready = await _ready(server)
        assert (ready["status"], ready["checks"]["fleet_telemetry"]) == ("ok", "ClickHouse cannot be reached.")
        served.start()
        now.ahead += 60
        assert (await _ready(server))["checks"]["fleet_telemetry"] == "ok"
        origin = Origin(environment, "shop", "agent")
        await server.fleet.telemetry.insert("logs", origin, logs(2))
        assert len((await server.get("telemetry/logs"))["rows"]) == 2


async def test_one_that_never_answers_holds_up_nothing_but_telemetry(
    now: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clavitor_fleet.telemetry.clickhouse_connection.CALL_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = clickhouse.store(f"clickhouse://127.0.0.1:{silent.getsockname()[1]}/db", now)
        await store.start()
        inserts = [asyncio.create_task(store.insert("logs", SHOP, logs(1))) for _ in range(20)]
        longest = 0.0
        while not all(task.done() for task in inserts):
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)
        results = await asyncio.gather(*inserts, return_exceptions=True)
        assert {type(result) for result in results} == {StorageUnavailable}
        assert "ClickHouse does not answer" in str(results[0])
        assert longest < 0.5
        asyncio.get_running_loop().call_later(0.1, now.__setattr__, "ahead", 60)
        waiting = asyncio.create_task(store.apply_retention(MONTH))
        await asyncio.sleep(0.2)
        before = time.monotonic()
        await store.stop()
        assert time.monotonic() - before < 5
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, and its key, in one file."""
    key, made, both = (tmp_path / name for name in ("key.pem", "certificate.pem", "both.pem"))
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    names = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made)
    subprocess.run(["openssl", *command.split(), *names], check=True, capture_output=True)
    both.write_text(made.read_text() + key.read_text())
    return both


async def test_over_tls_the_certificate_is_checked(certificate: Path, now: FrozenClock) -> None:
    with clickhouse.served(certificate) as served:
        served.start()
        doubted = clickhouse.store(served.url, now)
        with pytest.raises(StorageUnavailable):
            await doubted.insert("logs", SHOP, logs(1))
        trusted = clickhouse.store(f"{served.url}?ca_file={certificate}", now)
        await trusted.insert("logs", SHOP, logs(3))
        assert len((await trusted.find(Wanted("logs"))).rows) == 3
        await trusted.stop()
        await doubted.stop()
