"""Outbound connections through REST, and what is sent over them to real HTTP servers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from io import StringIO
from typing import Any

import pytest
from clavitor_fleet.connections import deliverer, outbox, sending
from clavitor_fleet.connections.outbox import News, enqueue_many
from clavitor_fleet.connections.tables import operator_notices, outbound_deliveries
from clavitor_fleet_testing.receiver import LOOPBACK, Received, Receiver, eventually, receiving
from clavitor_fleet_testing.server import Server, Start
from clavitor_fleet_testing.store import SaidStore
from clavitor_licensing_testing.server import NOW, FrozenClock
from loguru import logger

from clavitor_host import log
from clavitor_host.api import Alert, ConfigError, Plugin, StorageUnavailable, hookimpl

PATH = "outbound-connections"
SECRET = "a-secret-that-nobody-may-see"
HOUR = 3600


def said(answer: int | str, _: Received) -> int | str:
    return answer


class Operator(Plugin):
    """Hears what the operator is told."""

    name = "operator"
    version = "1.0"
    heard: list[Alert]

    def __init__(self) -> None:
        self.heard = []

    @hookimpl
    async def alert_operator(self, alert: Alert) -> None:
        self.heard.append(alert)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clavitor_fleet.telemetry.open.open_store", lambda *_: SaidStore())


@pytest.fixture
def logged() -> Iterator[StringIO]:
    """Collect the log, with everything that libraries tell."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    sink = StringIO()
    log.setup("DEBUG", json_lines=True, sink=sink)
    yield sink
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


@pytest.fixture
async def server(start: Start) -> Server:
    return await start(Operator, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)


async def connect(server: Server, url: str, **more: Any) -> str:
    body = {"name": "pager", "url": url, "secret": SECRET, **more}
    return str((await server.post(PATH, body))["id"])


async def send(server: Server, connection: str, *bodies: Mapping[str, Any], event: str = "news") -> None:
    async with server.host.db.transaction() as tx:
        await enqueue_many(server.host, tx, [News(connection, event, body) for body in bodies])


async def deliveries(server: Server, connection: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.get(f"{PATH}/{connection}/deliveries", **query))["deliveries"]
    return found


async def settled(server: Server, connection: str) -> list[dict[str, Any]]:
    """Wait until nothing waits; return all deliveries, newest first."""

    async def nothing_waits() -> bool:
        return not await deliveries(server, connection, state="waiting")

    await eventually(nothing_waits)
    return await deliveries(server, connection)


async def attempted(server: Server, connection: str, attempts: int) -> dict[str, Any]:
    """Wait until the oldest delivery was tried so often; return it."""

    async def enough() -> dict[str, Any] | None:
        oldest = (await deliveries(server, connection))[-1]
        return oldest if oldest["attempts"] >= attempts else None

    found: dict[str, Any] = await eventually(enough)
    return found


async def later(server: Server, seconds: float) -> None:
    """Let time pass, and have the deliverer look at the clock."""
    server.clock.now += seconds
    server.fleet.deliverer.wake()


# --- through REST


async def test_a_connection_is_made_read_changed_listed_and_deleted(server: Server, receiver: Receiver) -> None:
    made = await server.post(PATH, {"name": "Pager", "url": receiver.url})
    path = f"{PATH}/{made['id']}"
    assert (made["kind"], made["enabled"], made["failing_since"]) == ("webhook", True, None)
    assert len(made.pop("secret")) == 64
    assert await server.get(path) == made
    changed = await server.put(path, {"name": "pager", "enabled": False})
    assert (changed["name"], changed["enabled"], changed["url"]) == ("pager", False, receiver.url)
    assert await server.put(path, {}) == changed
    assert (await server.get(PATH))[PATH.replace("-", "_")] == [changed]
    await server.delete(path)
    for ask in (server.get(path, expect=404), server.delete(path, expect=404), server.put(path, {}, expect=404)):
        assert (await ask)["code"] == "outbound_connection_not_found"


@pytest.mark.parametrize(("path", "shown"), [("/services/T0/key", "/…"), ("/?key=1", "/…"), ("/", "")])
async def test_who_may_not_change_a_connection_sees_no_more_of_its_url_than_the_host(
    quick_start: Start, path: str, shown: str
) -> None:
    server = await quick_start()
    made = await connect(server, f"https://93.184.215.14:8443{path}")
    reader = await server.harness.client_for("ADMIN", scope="read")
    for client in (await server.harness.client_for("VIEWER"), reader):
        one = (await client.get(f"/api/v1/{PATH}/{made}")).json()
        assert one["url"] == f"https://93.184.215.14:8443{shown}"
        assert (await client.get(f"/api/v1/{PATH}")).json()["outbound_connections"] == [one]
    operator = await server.harness.client_for("OPERATOR")
    assert (await operator.get(f"/api/v1/{PATH}/{made}")).json()["url"].endswith(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("10.0.0.1/8", "10.0.0.1/8 has host bits set; write 10.0.0.0/8"),
        ("fd00::1/8", "fd00::1/8 has host bits set; write fd00::/8"),
        ("10.0.0.0/33", "'10.0.0.0/33' is no network, such as 10.1.0.0/16 or fd00::/8"),
        ("intranet", "'intranet' is no network, such as 10.1.0.0/16 or fd00::/8"),
    ],
)
async def test_a_network_that_is_none_is_told_in_one_line(quick_start: Start, given: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        await quick_start(CLAVITOR_FLEET_OUTBOUND_ALLOW=f"10.0.0.0/8,{given}")
    assert str(refused.value) == f"plugins.fleet.outbound_allow: {message} (CLAVITOR_FLEET_OUTBOUND_ALLOW)"


async def test_outcomes_and_states_are_counted_from_the_start(quick_start: Start) -> None:
    server = await quick_start()
    text = (await server.host.metrics.render()).decode()
    for outcome in ("delivered", "retried", "given_up", "dropped"):
        assert f'clavitor_fleet_deliveries_total{{outcome="{outcome}"}} 0.0' in text
    for state in ("pending", "firing", "resolved"):
        assert f'clavitor_fleet_alert_transitions_total{{state="{state}"}} 0.0' in text


async def test_a_secret_is_shown_once_and_only_when_the_server_has_made_it(
    server: Server, receiver: Receiver, logged: StringIO
) -> None:
    made = await server.post(PATH, {"name": "pager", "url": receiver.url, "secret": SECRET})
    assert made["secret"] is None
    path = f"{PATH}/{made['id']}"
    changed = await server.put(path, {"secret": SECRET + "-new"})
    assert "secret" not in changed
    await server.post(f"{path}/test", expect=200)
    assert receiver.received[0].signed_with(SECRET + "-new")
    for text in (await server.audit(), await server.get(path), await server.get(PATH), logged.getvalue()):
        assert SECRET not in json.dumps(text)
    for text in (await server.audit(), logged.getvalue()):
        assert "in-the-url" not in json.dumps(text)  # what follows the host of a webhook is a secret as a rule
    assert [row["action"] for row in await server.audit(category="FLEET")][-1] == "create_outbound_connection"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"name": ""},
        {"url": ""},
        {"url": "x" * 2049},
        {"secret": "short"},
        {"secret": "x" * 257},
        {"secret": "with a space in it"},
        {"kind": "carrier pigeon"},
        {"enabled": 1},
        {"token": "x"},
    ],
)
async def test_what_is_no_connection_is_a_400_that_names_the_field(quick_start: Start, wrong: dict[str, Any]) -> None:
    server = await quick_start()
    body = {"name": "pager", "url": "https://192.0.2.1/", **wrong} if wrong else {}
    refused = await server.post(PATH, body, expect=400)
    assert refused["code"] == "invalid_field"
    assert refused["field"] in (*wrong, "name", "url")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.com/", "http"),
        ("http://127.0.0.1:8400/", "loopback"),
        ("http://[::ffff:127.0.0.1]/", "IPv4-mapped"),
        ("http://2130706433/", "notation"),
        ("http://0x7f.1/", "notation"),
        ("http://169.254.169.254/latest/meta-data/", "link-local"),
        ("http://10.0.0.1/", "private"),
        ("http://localhost/", "loopback"),
        ("https://user:password@example.com/", "password"),
        ("https://nowhere.invalid/", "no address"),
        ("https:///nothing", "host"),
    ],
)
async def test_a_url_that_nothing_may_be_sent_to_is_a_422_that_says_why(quick_start: Start, url: str, why: str) -> None:
    server = await quick_start()
    refused = await server.post(PATH, {"name": "pager", "url": url}, expect=422)
    assert refused["field"] == "url"
    assert why in refused["detail"]
    made = await server.post(PATH, {"name": "pager", "url": "https://192.0.32.8/"})
    assert (await server.put(f"{PATH}/{made['id']}", {"url": url}, expect=422))["field"] == "url"
    assert (await server.get(f"{PATH}/{made['id']}"))["url"] == "https://192.0.32.8/"


async def test_a_name_is_taken_whatever_its_case(server: Server, receiver: Receiver) -> None:
    await connect(server, receiver.url, name="Pager")
    refused = await server.post(PATH, {"name": "PAGER", "url": receiver.url}, expect=409)
    assert (refused["code"], refused["field"]) == ("outbound_connection_exists", "name")
    other = await connect(server, receiver.url, name="other")
    assert (await server.put(f"{PATH}/{other}", {"name": "pager"}, expect=409))["code"] == refused["code"]


async def test_a_token_of_an_environment_reaches_no_connection(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url)
    client = await server.harness.client_for("OPERATOR", environment_id=await server.environment())
    path = f"/api/v1/{PATH}"
    assert (await client.get(path)).json()["outbound_connections"] == []
    assert (await client.post(path, json={"name": "x", "url": receiver.url})).status_code == 403
    for reply in (
        await client.get(f"{path}/{connection}"),
        await client.put(f"{path}/{connection}", json={"enabled": False}),
        await client.delete(f"{path}/{connection}"),
        await client.post(f"{path}/{connection}/test"),
        await client.get(f"{path}/{connection}/deliveries"),
    ):
        assert reply.status_code == 404
    assert receiver.received == []


async def test_a_viewer_reads_and_changes_nothing(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url)
    viewer = await server.harness.client_for("VIEWER")
    path = f"/api/v1/{PATH}/{connection}"
    assert (await viewer.get(path)).status_code == 200
    assert (await viewer.post(f"{path}/test")).status_code == 403
    assert (await viewer.delete(path)).status_code == 403


# --- the test event


async def test_a_test_says_what_came_of_it(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url, enabled=False)
    path = f"{PATH}/{connection}/test"
    result = await server.post(path, expect=200)
    assert result.pop("duration_ms") < 5000
    assert result == {"delivered": True, "status": 204, "reason": None}
    (got,) = receiver.received
    assert got.signed_with(SECRET)
    assert got.headers["x-clavitor-event"] == "test"
    assert got.json == {
        "event": "test",
        "outbound_connection": {"id": connection, "name": "pager"},
        "at": NOW * 1_000_000,
    }
    wrong: list[tuple[int | str, int | None, str]] = [
        (500, 500, "500"),
        ("garbage", None, "not HTTP"),
        ("http://127.0.0.1:1/", 302, "redirect"),
    ]
    for answer, status, why in wrong:
        receiver.answer = partial(said, answer)
        result = await server.post(path, expect=200)
        assert (result["delivered"], result["status"]) == (False, status)
        assert why in result["reason"]
    rows = await server.audit(action="test_outbound_connection")
    assert [row["payload"]["status"] for row in rows] == [302, None, 500, 204]


async def test_a_test_of_a_receiver_that_hangs_ends(
    quick_start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sending.ATTEMPT_TIMEOUT + sending.CLOSE_TIMEOUT < 10
    monkeypatch.setattr(sending, "ATTEMPT_TIMEOUT", 0.2)
    server = await quick_start(CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    receiver.answer = lambda _: "hang"
    result = await server.post(f"{PATH}/{await connect(server, receiver.url)}/test", expect=200)
    assert (result["delivered"], result["status"], result["reason"]) == (False, None, "It does not answer in time.")


async def test_an_address_that_is_not_allowed_any_more_is_not_dialled(quick_start: Start, receiver: Receiver) -> None:
    server = await quick_start(CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    connection = await connect(server, receiver.url)
    again = await quick_start(stop=server)
    result = await again.post(f"{PATH}/{connection}/test", expect=200)
    assert "loopback" in result["reason"]
    await send(again, connection, {})
    assert "loopback" in (await attempted(again, connection, 1))["error"]
    assert receiver.connections == 0


# --- delivery


async def test_a_delivery_is_signed_named_and_compact(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url)
    await send(server, connection, {"a": 1, "b": ["é", None]}, event="alert.firing")
    (got,) = await receiver.wait(1)
    assert got.path == "/hook?token=in-the-url"
    assert got.body == '{"a":1,"b":["é",null]}'.encode()
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-clavitor-event"] == "alert.firing"
    assert got.headers["x-clavitor-timestamp"] == str(NOW)
    assert got.signed_with(SECRET)
    assert not got.signed_with(SECRET + "x")
    (kept,) = await settled(server, connection)
    assert kept["id"] == got.headers["x-clavitor-delivery"]
    assert (kept["state"], kept["status"], kept["attempts"], kept["error"]) == ("delivered", 204, 1, None)
    assert "body" not in kept
    assert (await server.get(f"{PATH}/{connection}"))["last_delivered_at"] == NOW * 1_000_000


async def test_what_is_rolled_back_is_not_sent(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url)
    with pytest.raises(ZeroDivisionError):
        async with server.host.db.transaction() as tx:
            await enqueue_many(server.host, tx, [News(connection, "news", {"n": 0})])
            raise ZeroDivisionError
    await send(server, connection, {"n": 1})
    assert [got.json for got in await receiver.wait(1)] == [{"n": 1}]


async def test_order_is_kept_and_a_failed_delivery_is_repeated_under_its_id(server: Server, receiver: Receiver) -> None:
    answers: Iterator[int | str] = iter([500, "reset", "http://127.0.0.1:1/", 400, 503])
    receiver.answer = lambda _: next(answers, 200)
    connection = await connect(server, receiver.url)
    await send(server, connection, *({"n": n} for n in range(5)))
    for attempt in range(1, 6):
        await attempted(server, connection, attempt)
        failing = await server.get(f"{PATH}/{connection}")
        assert failing["failing_since"] == NOW * 1_000_000
        assert failing["next_attempt_at"] > server.clock.now_us()
        assert failing["last_error"]
        await later(server, deliverer.BACKOFF[1])
    kept = await settled(server, connection)
    assert [got.json["n"] for got in receiver.received] == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert len({got.headers["x-clavitor-delivery"] for got in receiver.received[:6]}) == 1
    assert len({got.headers["x-clavitor-timestamp"] for got in receiver.received[:6]}) == 6
    assert all(got.signed_with(SECRET) for got in receiver.received)
    assert [one["attempts"] for one in kept] == [1, 1, 1, 1, 6]
    assert (await server.get(f"{PATH}/{connection}"))["failing_since"] is None


async def test_pauses_grow_are_bounded_and_heed_retry_after(server: Server, receiver: Receiver) -> None:
    receiver.answer = lambda _: 503
    connection = await connect(server, receiver.url)
    await send(server, connection, {})
    pauses = []

    async def pause() -> float:
        at = (await server.get(f"{PATH}/{connection}"))["next_attempt_at"]
        return float(at - server.clock.now_us()) / 1_000_000

    for attempt in range(1, 14):
        await attempted(server, connection, attempt)
        pauses.append(await pause())
        if attempt == 13:
            receiver.headers["Retry-After"] = "1800"
        await later(server, pauses[-1] + 1)
    for attempt, rested in enumerate(pauses):
        longest = min(2.0 * 2**attempt, 900.0)
        assert longest / 2 <= rested <= longest
    await attempted(server, connection, 14)
    assert await pause() == 1800.0


async def test_a_receiver_that_hangs_delays_no_other(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = [await connect(server, receiver.url, name=f"hanging {n}") for n in range(5)]
    async with receiving() as well:
        receiver.answer = lambda _: "hang"
        healthy = await connect(server, well.url, name="healthy")
        for connection in hanging:
            await send(server, connection, {"n": 0})
        await receiver.wait(5)
        began = time.monotonic()
        await send(server, healthy, *({"n": n} for n in range(20)))
        assert [got.json["n"] for got in await well.wait(20)] == list(range(20))
        assert time.monotonic() - began < 5
        assert len(receiver.received) == 5  # one message at a time over each


async def test_what_waits_for_a_disabled_connection_is_sent_when_it_is_enabled(
    server: Server, receiver: Receiver
) -> None:
    connection = await connect(server, receiver.url, enabled=False)
    await send(server, connection, {"n": 1})
    other = await connect(server, receiver.url, name="other")
    await later(server, 48 * HOUR)
    await send(server, other, {"n": 2})
    await receiver.wait(1)
    (kept,) = await deliveries(server, connection)
    assert (kept["state"], kept["attempts"]) == ("waiting", 0)
    await server.put(f"{PATH}/{connection}", {"enabled": True})
    assert [got.json["n"] for got in await receiver.wait(2)] == [2, 1]


async def test_a_connection_that_is_corrected_sends_at_once(server: Server, receiver: Receiver) -> None:
    async with receiving() as wrong:
        wrong.answer = lambda _: 404
        connection = await connect(server, wrong.url)
        await send(server, connection, {"n": 1})
        await attempted(server, connection, 1)
        await server.put(f"{PATH}/{connection}", {"url": receiver.url})
        assert [got.json["n"] for got in await receiver.wait(1)] == [1]


async def test_a_failure_says_nothing_of_what_the_connection_has_become_meanwhile(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "ATTEMPT_TIMEOUT", 1.0)
    async with receiving() as hanging:
        hanging.answer = lambda _: "hang"
        connection = await connect(server, hanging.url)
        await send(server, connection, {"n": 1})
        await hanging.wait(1)
        await server.put(f"{PATH}/{connection}", {"url": receiver.url})
        assert [got.json["n"] for got in await receiver.wait(1)] == [1]
        (kept,) = await settled(server, connection)
        assert (kept["attempts"], kept["state"]) == (2, "delivered")


async def test_after_a_day_of_failures_deliveries_are_given_up_and_the_operator_is_told(
    server: Server, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 500
    connection = await connect(server, receiver.url)
    await send(server, connection, {"n": 1}, {"n": 2})
    await attempted(server, connection, 1)
    await later(server, 12 * HOUR)
    await attempted(server, connection, 2)
    await send(server, connection, {"n": 3})
    await later(server, 12 * HOUR)

    async def given_up() -> list[dict[str, Any]]:
        return await deliveries(server, connection, state="given_up")

    gone = await eventually(given_up)
    assert [one["attempts"] for one in gone] == [0, 3]
    receiver.answer = lambda _: 200
    await later(server, HOUR)
    await settled(server, connection)
    assert receiver.received[-1].json == {"n": 3}
    (row,) = await server.audit(action="give_up_delivery")
    assert (row["actor"], row["payload"]["deliveries"]) == ("system", 2)
    operator = server.host.registry.get("operator")
    assert operator is not None and isinstance(operator.plugin, Operator)
    heard = operator.plugin.heard

    async def told() -> bool:
        return bool(heard)

    await eventually(told)
    (alert,) = heard
    assert (alert.type, alert.details["deliveries"]) == ("outbound_delivery_given_up", 2)
    metrics = (await server.harness.host.metrics.render()).decode()
    assert 'clavitor_fleet_deliveries_total{outcome="given_up"} 2.0' in metrics


async def test_too_much_that_waits_is_bounded_and_the_oldest_goes(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BOUND", 5)
    full = await connect(server, receiver.url, enabled=False)
    other = await connect(server, receiver.url, name="other", enabled=False)
    await send(server, other, {"n": 0})
    await send(server, full, *({"n": n} for n in range(4)))
    await send(server, full, *({"n": n} for n in range(4, 8)))
    kept = await deliveries(server, full)
    assert [one["state"] for one in kept] == ["waiting"] * 5 + ["dropped"] * 3
    assert len(await deliveries(server, other, state="waiting")) == 1
    await server.put(f"{PATH}/{full}", {"enabled": True})
    assert [got.json["n"] for got in await receiver.wait(5)] == [3, 4, 5, 6, 7]


async def test_a_sender_that_could_not_be_opened_is_opened_anew(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await connect(server, receiver.url)
    guarded = server.host.outbound.guarded

    def broken(*arguments: Any, **options: Any) -> Any:
        raise OSError("too many open files")

    monkeypatch.setattr(server.host.outbound, "guarded", broken)
    await server.post(f"{PATH}/{connection}/test", expect=500)
    await server.fleet.deliverer.stop()
    monkeypatch.setattr(server.host.outbound, "guarded", guarded)
    assert (await server.post(f"{PATH}/{connection}/test", expect=200))["delivered"]


async def test_what_was_dropped_or_given_up_is_history_too(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BOUND", 5)
    monkeypatch.setattr("clavitor_fleet.connections.history.HISTORY", 3)
    full = await connect(server, receiver.url, enabled=False)
    other = await connect(server, receiver.url, name="other", enabled=False)
    await send(server, other, *({"n": n} for n in range(6)))
    for first in range(0, 30, 10):
        await send(server, full, *({"n": n} for n in range(first, first + 10)))
    assert [one["state"] for one in await deliveries(server, full)] == ["waiting"] * 5 + ["dropped"] * 3
    assert [one["state"] for one in await deliveries(server, other)] == ["waiting"] * 5 + ["dropped"]
    receiver.answer = lambda _: 500
    await server.put(f"{PATH}/{other}", {"enabled": True})

    async def tried() -> bool:
        return bool((await deliveries(server, other, state="waiting"))[-1]["attempts"])

    await eventually(tried)
    await later(server, 25 * HOUR)
    await settled(server, other)
    assert [one["state"] for one in await deliveries(server, other)] == ["given_up"] * 3


async def test_history_is_bounded_and_shown_page_by_page_newest_first(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clavitor_fleet.connections.history.HISTORY", 7)
    connection = await connect(server, receiver.url)
    await send(server, connection, *({"n": n} for n in range(12)))
    await receiver.wait(12)
    kept = await settled(server, connection)
    sent = [got.headers["x-clavitor-delivery"] for got in receiver.received]
    assert [one["id"] for one in kept] == sent[:-8:-1]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = await server.get(f"{PATH}/{connection}/deliveries", **query)
        seen += [one["id"] for one in page["deliveries"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == [one["id"] for one in kept]
    for wrong in ({"cursor": "x"}, {"cursor": "9" * 30}, {"state": "lost"}, {"limit": 0}):
        await server.get(f"{PATH}/{connection}/deliveries", **wrong, expect=400)
    bodies = await server.host.db.fetch_all(outbound_deliveries.select())
    assert {row["body"] for row in bodies} == {""}


async def test_deleting_a_connection_deletes_what_waits_for_it(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url, enabled=False)
    await send(server, connection, {})
    await server.delete(f"{PATH}/{connection}")
    assert await server.host.db.fetch_all(outbound_deliveries.select()) == []
    await send(server, connection, {})  # nobody is told, and nothing fails
    assert await server.host.db.fetch_all(outbound_deliveries.select()) == []


async def test_a_restart_sends_what_waits_and_repeats_nothing(
    start: Start, receiver: Receiver, clock: FrozenClock
) -> None:
    first = await start(Operator, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    connection = await connect(first, receiver.url)
    await send(first, connection, {"n": 0})
    await settled(first, connection)
    receiver.answer = lambda _: "hang"
    await send(first, connection, {"n": 1}, {"n": 2})
    await receiver.wait(2)
    receiver.answer = lambda _: 200
    second = await start(Operator, stop=first, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    await settled(second, connection)
    assert [got.json["n"] for got in receiver.received] == [0, 1, 1, 2]  # the first 1 was not answered


async def test_two_processes_send_each_delivery_once(start: Start, receiver: Receiver) -> None:
    one = await start(Operator, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    two = await start(Operator, CLAVITOR_FLEET_OUTBOUND_ALLOW=LOOPBACK)
    connection = await connect(one, receiver.url)
    for n in range(10):
        await send((one, two)[n % 2], connection, {"n": n})
    await receiver.wait(10)
    await settled(two, connection)
    assert [got.json["n"] for got in receiver.received] == list(range(10))


async def test_a_delivery_whose_end_cannot_be_kept_is_not_repeated(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_fleet.connections import attempts

    monkeypatch.setattr(deliverer, "DATABASE_PAUSE", 0.01)
    settle, failures = attempts.settle, iter(range(3))

    async def away(*arguments: Any) -> None:
        if next(failures, None) is not None:
            raise StorageUnavailable("away")
        await settle(*arguments)

    monkeypatch.setattr(attempts, "settle", away)
    connection = await connect(server, receiver.url)
    await send(server, connection, {"n": 1}, {"n": 2})
    await settled(server, connection)
    assert [got.json["n"] for got in receiver.received] == [1, 2]


async def test_many_at_once_keep_the_order_of_their_commits(server: Server, receiver: Receiver) -> None:
    connection = await connect(server, receiver.url, enabled=False)
    order: list[int] = []

    async def one(n: int) -> None:
        async with server.host.db.transaction() as tx:
            await enqueue_many(server.host, tx, [News(connection, "news", {"n": n})])
            tx.after_commit(lambda: order.append(n))

    await asyncio.gather(*(one(n) for n in range(20)))
    await server.put(f"{PATH}/{connection}", {"enabled": True})
    await receiver.wait(20)
    assert sorted(order) == list(range(20))
    kept = await server.host.db.fetch_all(outbound_deliveries.select().order_by(outbound_deliveries.c.seq))
    assert [row["id"] for row in kept] == [got.headers["x-clavitor-delivery"] for got in receiver.received]


async def test_nothing_is_looked_up_while_nothing_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waking is by signal: an idle deliverer does not ask the database."""
    looks = 0
    from clavitor_fleet.connections import attempts

    ready = attempts.ready

    async def counted(host: Any) -> Any:
        nonlocal looks
        looks += 1
        return await ready(host)

    monkeypatch.setattr(attempts, "ready", counted)
    if server.host.db.dialect == "sqlite":
        pytest.skip("on SQLite a commit of anybody is a hint")
    await asyncio.sleep(0.3)
    before = looks
    await asyncio.sleep(0.7)
    assert looks == before


async def test_notices_to_the_operator_are_raised_once_in_order_and_survive_a_restart(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_fleet.connections import notices

    first = await start(Operator)
    monkeypatch.setattr(notices, "_BATCH", 2)
    told = [notices.Notice("told", f"number {n}", {"n": n}) for n in range(5)]
    async with first.host.db.transaction() as tx:
        await notices.tell_operator(first.host, tx, told)
    record = first.host.registry.get("operator")
    assert record is not None and isinstance(record.plugin, Operator)
    heard = record.plugin.heard

    async def nothing_waits() -> bool:
        return not await first.host.db.fetch_all(operator_notices.select())

    await eventually(nothing_waits)
    assert [alert.details["n"] for alert in heard] == list(range(5))
    for n in (5, 6):  # nothing waits meanwhile: SQLite numbers its rows anew
        async with first.host.db.transaction() as tx:
            await notices.tell_operator(first.host, tx, [notices.Notice("told", "again", {"n": n})])
        await eventually(nothing_waits)
    assert [alert.details["n"] for alert in heard] == list(range(7))
    assert len({alert.details["notice"] for alert in heard}) == 7
    assert all(isinstance(alert.details["notice"], str) for alert in heard)
