"""Delivery: nothing lost, nothing twice, in order, whatever the receiver and the server do."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from clavitor_commercial import inbox, lanes, spool
from clavitor_commercial.config import CommercialConfig
from clavitor_commercial.delivery import REFUSALS, judge
from clavitor_commercial.items import Item
from clavitor_commercial.lanes import make_reports as lanes_make_reports
from clavitor_commercial_testing import (
    BUNDLE,
    TOKEN,
    Receiver,
    commercial,
    environ_of,
    eventually,
    fresh_database,
    hurry,
    metrics_of,
    raise_alerts,
    receiving,
    telemetry_of,
)
from loguru import logger

from clavitor_host import log
from clavitor_host.api import Alert, StorageUnavailable, retry_after
from clavitor_host.app import create_host
from clavitor_host.testing import settings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(autouse=True)
def logged() -> Iterator[StringIO]:
    """Collect the log of every test here: the token must be in none."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    sink = StringIO()
    log.setup("DEBUG", json_lines=True, sink=sink)
    yield sink
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()
    assert TOKEN not in sink.getvalue()


async def test_an_alert_and_a_report_arrive(receiver: Receiver, database_url: str, tmp_path: Path) -> None:
    async with commercial(tmp_path, environ_of(receiver, database_url)) as harness:
        assert harness.host.edition.is_telemetry_enabled()
        await harness.host.edition.alert_operator("disk_full", "The disk is full.", {"path": Path("/data"), "n": 1})
        (alert,) = await receiver.wait_alerts(1)
        (report,) = await receiver.wait_reports(1)
        pop = {"name": "zrh-1", "region": "eu-central"}
        assert {**alert, "id": 0, "at": 0} == {
            "id": 0,
            "at": 0,
            "type": "disk_full",
            "message": "The disk is full.",
            "details": {"path": "/data", "n": 1},
            "pop": pop,
            "version": harness.host.version,
        }
        assert abs(alert["at"] / 1e6 - time.time()) < 60
        assert {**report, "id": 0, "at": 0, "audit": 0} == {
            "id": 0,
            "at": 0,
            "pop": pop,
            "version": harness.host.version,
            "edition": "commercial",
            "interval_seconds": 60,
            "uptime_seconds": 0,
            "entries": 0,
            "replication": None,
            "license": None,
            "audit": 0,
        }
        assert report["audit"] == (await harness.host.status())["audit"]
        for request in receiver.taken:
            assert request.headers["authorization"] == f"Bearer {TOKEN}"
            assert request.headers["content-type"] == "application/json"
        telemetry = telemetry_of(harness)
        await eventually(lambda: _nothing_waits(telemetry))
        text = await metrics_of(harness)
        for line in (
            'clavitor_telemetry_spooled{kind="alert"} 0.0',
            'clavitor_telemetry_sent_total{kind="alert",outcome="delivered"} 1.0',
            'clavitor_telemetry_sent_total{kind="report",outcome="delivered"} 1.0',
        ):
            assert line in text
        assert 'clavitor_telemetry_last_success_timestamp_seconds{kind="alert"} 0.0' not in text


async def _nothing_waits(telemetry: Any) -> bool:
    return all(fares.spooled == 0 for fares in (await telemetry.spool.fares()).values())


async def test_an_outage_and_restarts_lose_nothing_and_repeat_nothing(
    receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    environ = environ_of(receiver, database_url)
    await receiver.stop()
    async with commercial(tmp_path, environ) as harness:
        await raise_alerts(harness, [f"a{n}" for n in range(5)])
        telemetry = telemetry_of(harness)

        async def failed() -> bool:
            fares = await telemetry.spool.fares()
            return fares["alert"].error is not None and fares["report"].spooled == 1

        await eventually(failed)
        report = (await harness.host.status())["plugins"]["commercial"]
        assert "cannot be reached" in report["alerts"]["last_error"]
    await receiver.start()
    receiver.answer = 503  # it is up, and not ready
    async with commercial(tmp_path, environ) as harness:
        await raise_alerts(harness, [f"b{n}" for n in range(5)])
        await receiver.wait_seen(3)
    assert receiver.taken == []
    answers: Iterator[int | str] = iter([200, 500, "reset", "garbage", 302, 401, 200, 429, 404, 408, 425, 403])
    receiver.answer_of = lambda _: next(answers, 200)
    async with commercial(tmp_path, environ) as harness:
        alerts = await receiver.wait_alerts(10)
        await receiver.wait_reports(1)
        await eventually(lambda: _nothing_waits(telemetry_of(harness)))
    assert [alert["message"] for alert in alerts] == [f"{run}{n}" for run in "ab" for n in range(5)]
    attempts: dict[str, set[str]] = {}
    for request in receiver.seen:
        attempts.setdefault(request.body["id"], set()).add(request.text)
    assert len(attempts) == 11  # ten alerts and one report: the interval is counted over restarts
    assert all(len(texts) == 1 for texts in attempts.values())  # a retry sends the same bytes
    taken = [request.body["id"] for request in receiver.taken]
    assert len(taken) == len(set(taken)) == 11


async def test_two_servers_on_one_database_deliver_each_item_once(
    receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    environ = environ_of(receiver, database_url)
    async with commercial(tmp_path, environ) as first, commercial(tmp_path, environ) as second:
        await asyncio.gather(
            raise_alerts(first, [f"a{n}" for n in range(20)]), raise_alerts(second, [f"b{n}" for n in range(20)])
        )
        await receiver.wait_alerts(40)
        await eventually(lambda: _nothing_waits(telemetry_of(first)))
        workers = [
            job for app in (first, second) for job in app.app.jobs.status() if job.name == "commercial.telemetry"
        ]
        assert sorted(job.running for job in workers) == [False, True]
    messages = [alert["message"] for alert in receiver.alerts()]
    assert len(messages) == 40
    for server in "ab":  # each server's own in order
        assert [one for one in messages if one[0] == server] == [f"{server}{n}" for n in range(20)]
    assert len(receiver.reports()) == 1


async def test_a_full_spool_lets_the_oldest_go_and_says_so(
    receiver: Receiver, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: StringIO
) -> None:
    monkeypatch.setitem(spool.BOUNDS, "alert", 3)
    receiver.answer = 503
    async with commercial(tmp_path, environ_of(receiver, database_url)) as harness:
        await raise_alerts(harness, list("abcde"))
        text = await metrics_of(harness)
        assert 'clavitor_telemetry_dropped_total{kind="alert",reason="full"} 2.0' in text
        assert 'clavitor_telemetry_spooled{kind="alert"} 3.0' in text
        receiver.answer = 200
        await receiver.wait_alerts(3)
    assert [alert["message"] for alert in receiver.alerts()][-3:] == list("cde")
    assert "The telemetry spool is full" in logged.getvalue()


async def test_the_ten_thousandth_alert_costs_no_more_than_a_query(
    receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    receiver.answer = 503
    async with commercial(tmp_path, environ_of(receiver, database_url)) as harness:
        keep = telemetry_of(harness).spool
        for start in range(0, 10_001, 1000):
            await keep.put([Item("alert", f"i{n}", n, "{}") for n in range(start, start + 1000)])
        assert (await keep.fares())["alert"].spooled == 10_000
        assert (await keep.head("alert", 1))[0].id == "i1000"
        began = time.perf_counter()
        await raise_alerts(harness, ["one more"])
        assert time.perf_counter() - began < 1


@pytest.mark.parametrize("status", sorted(REFUSALS))
async def test_what_the_receiver_refuses_is_dropped_and_logged(
    receiver: Receiver, tmp_path: Path, status: int, logged: StringIO
) -> None:
    receiver.answer_of = lambda request: status if request.body.get("message") == "bad" else 200
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        await raise_alerts(harness, ["bad", "good"])
        (good,) = await receiver.wait_alerts(1)
        assert good["message"] == "good"
        text = await metrics_of(harness)
        assert 'clavitor_telemetry_dropped_total{kind="alert",reason="refused"} 1.0' in text
        await eventually(lambda: _nothing_waits(telemetry_of(harness)))
    (bad,) = [request.body["id"] for request in receiver.seen if request.body.get("message") == "bad"]
    (line,) = [one for one in logged.getvalue().splitlines() if "refuses an item" in one]
    assert json.loads(line)["id"] == bad


async def test_a_redirect_is_never_followed_and_the_token_goes_nowhere_else(
    receiver: Receiver, tmp_path: Path, logged: StringIO
) -> None:
    async with receiving() as elsewhere:
        receiver.answer = 307
        receiver.headers = {"Location": f"{elsewhere.url}/v1/alerts"}
        async with commercial(tmp_path, environ_of(receiver)) as harness:
            await raise_alerts(harness, ["one"])
            await receiver.wait_seen(6)
            receiver.answer = 200
            await receiver.wait_alerts(1)
            await eventually(lambda: _says(logged, "is delivered again"))
        assert elsewhere.connections == 0
    assert "a redirect, which is never followed" in logged.getvalue()


async def _says(logged: StringIO, text: str) -> bool:
    return text in logged.getvalue()


async def test_a_receiver_that_never_answers_holds_up_nobody(
    receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    receiver.answer = "hang"
    async with commercial(tmp_path, environ_of(receiver, database_url)) as harness:
        await receiver.wait_seen(1)
        slowest = 0.0
        for n in range(20):
            began = time.perf_counter()
            await raise_alerts(harness, [f"a{n}"])
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 0.5
        await receiver.until(lambda: any(request.path == "/v1/alerts" for request in receiver.seen))
        began = time.perf_counter()
        await harness.app.jobs.stop()  # both lanes are in the middle of a request
        assert time.perf_counter() - began < 1
        assert not [job for job in harness.app.jobs.status() if job.running]
    receiver.answer = 200
    async with commercial(tmp_path, environ_of(receiver, database_url)):
        alerts = await receiver.wait_alerts(20)
    assert [alert["message"] for alert in alerts] == [f"a{n}" for n in range(20)]


async def test_an_endless_answer_is_not_read(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = "endless"
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        await raise_alerts(harness, ["one", "two"])
        assert [alert["message"] for alert in await receiver.wait_alerts(2)] == ["one", "two"]


async def test_reports_that_fail_do_not_hold_up_alerts(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer_of = lambda request: 500 if request.path == "/v1/metrics" else 200
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        await raise_alerts(harness, list("abc"))
        assert [alert["message"] for alert in await receiver.wait_alerts(3)] == list("abc")


async def test_an_alert_of_another_process_is_found(receiver: Receiver, tmp_path: Path) -> None:

    environ = environ_of(receiver)
    async with commercial(tmp_path, environ):
        command = create_host(settings(tmp_path / "data", BUNDLE, environ), BUNDLE)  # such as `clavitor user create`
        await command.start(offline=True)
        await command.host.edition.alert_operator("from_a_command", "Look.")
        await command.stop()
        (alert,) = await receiver.wait_alerts(1)
        assert alert["type"] == "from_a_command"


async def test_an_alert_inside_a_transaction_neither_waits_for_it_nor_goes_with_it(
    receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    async with commercial(tmp_path, environ_of(receiver, database_url)) as harness:
        began = time.perf_counter()
        with pytest.raises(ZeroDivisionError):
            async with harness.host.db.transaction() as tx:
                await tx.execute("UPDATE vault_head SET updated_at = 1")
                await raise_alerts(harness, ["inside"])
                assert time.perf_counter() - began < 0.5
                raise ZeroDivisionError
        (alert,) = await receiver.wait_alerts(1)
        assert alert["message"] == "inside"


async def test_while_the_database_is_away_alerts_wait_in_memory_bounded(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "BOUND", 3)
    monkeypatch.setattr(inbox, "RETRY", 0.01)
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        await receiver.wait_reports(1)
        keep = telemetry_of(harness).spool
        put, tried = keep.put, asyncio.Event()

        async def unavailable(items: Any) -> None:
            tried.set()
            raise StorageUnavailable("The disk of the database is full.")

        monkeypatch.setattr(keep, "put", unavailable)
        began = time.perf_counter()
        await raise_alerts(harness, list("abcde"))
        assert time.perf_counter() - began < 0.9  # nobody waits for a database that is away
        await tried.wait()
        text = await metrics_of(harness)
        assert 'clavitor_telemetry_dropped_total{kind="alert",reason="memory"} 2.0' in text
        monkeypatch.setattr(keep, "put", put)
        assert [alert["message"] for alert in await receiver.wait_alerts(3)] == list("cde")


async def test_at_the_end_a_database_that_hangs_holds_up_nobody_and_what_is_lost_is_counted(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        mail = telemetry_of(harness).inbox
        hanging, release = asyncio.Event(), asyncio.Event()

        async def hang(items: Any) -> None:
            hanging.set()
            while not release.is_set():  # as a commit does that must not be left half done
                with suppress(asyncio.CancelledError):
                    await release.wait()

        monkeypatch.setattr(telemetry_of(harness).spool, "put", hang)
        raising = asyncio.create_task(raise_alerts(harness, ["a"]))
        await hanging.wait()
        began = time.perf_counter()
        await mail.stop()
        assert time.perf_counter() - began < 3 * inbox.LAST_CHANCE
        await raising
        await raise_alerts(harness, ["too late"])
        assert 'clavitor_telemetry_dropped_total{kind="alert",reason="shutdown"} 2.0' in await metrics_of(harness)
        release.set()


async def test_what_was_sent_and_could_not_be_noted_is_not_sent_again(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        await receiver.wait_reports(1)
        keep = telemetry_of(harness).spool
        settle, tries = keep.settle, 0

        async def now_and_then(item: Item, at: int, error: str | None = None) -> None:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise StorageUnavailable("no")
            await settle(item, at, error)

        monkeypatch.setattr(keep, "settle", now_and_then)
        await raise_alerts(harness, list("ab"))
        await receiver.wait_alerts(2)
        await eventually(lambda: _nothing_waits(telemetry_of(harness)))
    assert [alert["message"] for alert in receiver.alerts()] == list("ab")


async def test_reports_come_every_interval_and_an_outage_keeps_them(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def every_50_ms(host: Any, config: CommercialConfig, keep: Any) -> None:
        await lanes_make_reports(host, config.model_copy(update={"telemetry_interval": 0.05}), keep)

    monkeypatch.setattr(lanes, "make_reports", every_50_ms)
    receiver.answer = 500
    async with commercial(tmp_path, environ_of(receiver)) as harness:

        async def five_wait() -> bool:
            return (await telemetry_of(harness).spool.fares())["report"].spooled >= 5

        await eventually(five_wait)
        receiver.answer = 200
        reports = await receiver.wait_reports(5)
    times = [report["at"] for report in reports]
    assert all(later - earlier >= 50_000 for earlier, later in itertools.pairwise(times))
    assert len({report["id"] for report in reports}) == len(reports)


async def test_the_health_check_tells_of_a_long_silence_only(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = 500
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        client = await harness.client()
        assert (await client.get("/readyz")).json()["checks"]["telemetry"] == "ok"
        eleven_minutes_ago = harness.host.clock.now_us() - 660_000_000
        await telemetry_of(harness).spool.put([Item("alert", "old", eleven_minutes_ago, "{}")])
        reply = await client.get("/readyz")
        assert reply.status_code == 200  # never critical
        assert reply.json()["checks"]["telemetry"].startswith("telemetry has not been delivered for 11 minutes")
        assert "127.0.0.1" not in reply.text
        receiver.answer = 200
        await receiver.wait_alerts(1)
        await eventually(lambda: _nothing_waits(telemetry_of(harness)))
        assert (await client.get("/readyz")).json()["checks"]["telemetry"] == "ok"


@pytest.mark.parametrize(
    "details",
    [
        {"n": float("nan")},
        {"big": "x" * 100_000},
        {"deep": [[[[["ok"]]]]]},
        {"half": "\ud800", "nul": "\x00", "é": "ü"},
        {1: 2, ("a",): 3},
    ],
)
async def test_whatever_an_alert_holds_it_is_sent(
    receiver: Receiver, database_url: str, tmp_path: Path, details: Any
) -> None:
    async with commercial(tmp_path, environ_of(receiver, database_url)) as harness:
        await harness.host.edition.alert_operator("t\ud800\x00", "m\ud800\x00", details)
        (alert,) = await receiver.wait_alerts(1)
        assert (alert["type"], alert["message"]) == ("t?\x00", "m?\x00")
        if "deep" in details:
            assert alert["details"] == details
        elif "half" in details:
            assert alert["details"] == {"half": "?", "nul": "\x00", "é": "ü"}
        else:
            assert list(alert["details"]) == ["omitted"]


async def test_an_alert_with_a_strange_id_gets_another(receiver: Receiver, tmp_path: Path) -> None:
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        alert = Alert("t", "m", id="\x00 no", at=1)
        await harness.host.hooks.broadcast("alert_operator", host=harness.host, alert=alert)
        (sent,) = await receiver.wait_alerts(1)
        assert len(sent["id"]) == 32


def test_every_other_answer_is_tried_again() -> None:
    for status in range(100, 700):
        what = judge(status, {}, 0).what
        expected = "delivered" if 200 <= status < 300 else "refused" if status in REFUSALS else "retry"
        assert what == expected, status
    assert "check telemetry_token" in judge(401, {}, 0).reason
    assert "check telemetry_host" in judge(404, {}, 0).reason


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("9" * 400, 3600.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("²", 0.0),
        (format_datetime(datetime(2030, 1, 1, 0, 1, tzinfo=UTC), usegmt=True), 60.0),
        (format_datetime(datetime(2029, 1, 1, tzinfo=UTC), usegmt=True), 0.0),
        (format_datetime(datetime(2035, 1, 1, tzinfo=UTC), usegmt=True), 3600.0),
        ("Mon, 99 Foo 99999999999 99:99:99 GMT", 0.0),
    ],
)
def test_retry_after_is_honoured_and_bounded(value: str, seconds: float) -> None:
    assert retry_after(value, datetime(2030, 1, 1, tzinfo=UTC).timestamp()) == seconds


async def test_retry_after_is_waited_for(receiver: Receiver, tmp_path: Path) -> None:
    answers = iter([429])
    receiver.headers = {"Retry-After": "1"}
    receiver.answer_of = lambda request: next(answers, 200) if request.path == "/v1/alerts" else 200
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        await raise_alerts(harness, ["one"])
        await receiver.until(lambda: any(request.path == "/v1/alerts" for request in receiver.seen))
        began = time.monotonic()
        await receiver.wait_alerts(1)
        assert time.monotonic() - began > 0.9
