"""Signals: heard when the transaction commits, by this process once and by the others of the deployment."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from clavitor_host import log
from clavitor_host.api import Change, Host, Plugin, Transaction, hookimpl
from clavitor_host.clock import SystemClock
from clavitor_host.metrics import Metrics
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.models import FrozenPlugin
from clavitor_host.storage import postgres_listen
from clavitor_host.storage.database import Database
from clavitor_host.storage.errors import OutcomeUnknown
from clavitor_host.storage.signals import LONGEST_MESSAGE, Signals
from clavitor_host.storage.sqlite import WATCH_INTERVAL
from clavitor_host.testing import running_app, settings
from clavitor_host.testing.postgres import PostgresServer
from tests.storage.test_postgres import Cable

SOON = 1.0
"""Seconds within which an agent hears of a change that any process committed."""

TOPIC = "test.changed"

sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
postgresql = pytest.mark.parametrize("url", ["postgresql"], indirect=True)

SENDER = """
import asyncio, sys
from clavitor_host.clock import SystemClock
from clavitor_host.metrics import Metrics
from clavitor_host.storage.database import Database
from clavitor_host.storage.signals import Signals

async def main():
    db = Database(sys.argv[1])
    await db.open()
    signals = Signals(db, SystemClock(), Metrics())
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO things (key) VALUES ('elsewhere')")
        await signals.send(tx, "test.changed", "from afar")
    await db.close()

asyncio.run(main())
"""
"""What another process does."""


class Node:
    """One process of the deployment: its own connections, its own signals."""

    def __init__(self, url: str) -> None:
        self.db = Database(url)
        self.metrics = Metrics()
        self.signals = Signals(self.db, SystemClock(), self.metrics)

    async def send(self, *payloads: str, topic: str = TOPIC) -> None:
        """Send in one transaction that also writes."""
        async with self.db.transaction() as tx:
            await tx.execute("INSERT INTO things (key) VALUES (:key)", {"key": uuid4().hex})
            for payload in payloads:
                await self.signals.send(tx, topic, payload)


class Ear:
    """A subscriber that keeps what it hears."""

    def __init__(self, node: Node, topic: str = TOPIC) -> None:
        self.heard: asyncio.Queue[str | None] = asyncio.Queue()
        self.unsubscribe = node.signals.subscribe(topic, self.heard.put_nowait)

    async def next(self, within: float = SOON) -> str | None:
        async with asyncio.timeout(within):
            return await self.heard.get()

    async def ready(self) -> Ear:
        """Wait until listening has begun."""
        assert await self.next(within=20) is None
        return self

    @property
    def silent(self) -> bool:
        return self.heard.empty()


Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Start]:
    """Start one more process on the database."""
    nodes: list[Node] = []

    async def make(url: str = database.url, *, opened: bool = True) -> Node:
        node = Node(url)
        nodes.append(node)
        if opened:
            await node.db.open()
        await node.signals.start()
        return node

    yield make
    for node in nodes:
        await node.signals.stop()
        await node.db.close()


async def listeners(db: Database) -> list[int]:
    """Return the server's processes that listen."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'clavitor signals'"
    return [row["pid"] for row in await db.fetch_all(f"{query} AND datname = current_database()")]


def tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "signals"]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - the server cannot wake us
            await asyncio.sleep(0.01)


# --- this process --------------------------------------------------------------------------------------------


async def test_equal_signals_of_a_transaction_are_one(start: Start) -> None:
    node = await start()
    ear = await Ear(node).ready()
    await node.send("a", "b", "a", "a", "")
    assert [await ear.next() for _ in range(3)] == ["a", "b", ""]
    assert ear.silent


async def test_it_hears_itself_before_the_transaction_returns(start: Start) -> None:
    node = await start()
    ear = await Ear(node).ready()
    await node.send("a")
    assert ear.heard.get_nowait() == "a"


async def test_it_hears_itself_without_ever_listening(database: Database, start: Start) -> None:
    node = await start()
    await node.signals.stop()
    ear = Ear(node)
    await node.send("a")
    assert (await ear.next(), tasks()) == ("a", [])


async def test_nothing_is_heard_of_what_is_rolled_back(start: Start) -> None:
    one, two = await start(), await start()
    ears = [await Ear(one).ready(), await Ear(two).ready()]
    with pytest.raises(RuntimeError, match="no luck"):
        async with one.db.transaction() as tx:
            await one.signals.send(tx, TOPIC, "gone")
            raise RuntimeError("no luck")
    async with one.db.transaction() as tx:
        await tx.execute("INSERT INTO things (key) VALUES ('kept')")
        await one.signals.send(tx, TOPIC, "kept")
        with pytest.raises(RuntimeError, match="no luck"):
            async with tx.savepoint():
                await one.signals.send(tx, TOPIC, "undone")
                raise RuntimeError("no luck")
    own = [await ears[0].next()]
    other = [await ears[1].next(SOON + WATCH_INTERVAL)]
    assert own == ["kept"] and ears[0].silent
    assert other == (["kept"] if one.db.dialect == "postgresql" else [None]) and ears[1].silent


async def test_an_error_in_a_callback_reaches_nobody(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    node = await start()

    def fails(payload: str | None) -> None:
        raise RuntimeError("a subscriber's mistake")

    node.signals.subscribe(TOPIC, fails)
    ear = await Ear(node).ready()
    await node.send("a")
    assert await ear.next() == "a"
    assert await node.db.fetch_val("SELECT count(*) FROM things") == 1
    assert "a subscriber's mistake" in capsys.readouterr().err


async def test_a_subscription_ends_also_from_within_a_callback(start: Start) -> None:
    node = await start()
    ends: list[Callable[[], None]] = []
    first = await Ear(node).ready()
    ends.append(node.signals.subscribe(TOPIC, lambda _: ends[1]()))
    second = Ear(node)
    ends.append(second.unsubscribe)
    await node.send("a")
    assert (await first.next(), second.silent) == ("a", True)
    first.unsubscribe()
    first.unsubscribe()
    again = Ear(node)
    first.unsubscribe()
    await node.send("b")
    assert (await again.next(), first.silent, second.silent) == ("b", True, True)


async def test_topics_are_kept_apart(start: Start) -> None:
    node = await start()
    ear = await Ear(node).ready()
    other = Ear(node, "test.other")
    await node.send("a", topic="test.other")
    assert (await other.next(), ear.silent) == ("a", True)


@pytest.mark.parametrize("topic", ["", "Upper", "two words", "a" * 64, "1st", "new\nline"])
async def test_a_topic_is_lower_case_words(start: Start, topic: str) -> None:
    node = await start()
    with pytest.raises(ValueError, match="no topic"):
        node.signals.subscribe(topic, print)
    with pytest.raises(ValueError, match="no topic"):
        await node.send("a", topic=topic)


@pytest.mark.parametrize("payload", ["nul\0", "lone \ud800"])
async def test_a_payload_that_cannot_be_carried_is_refused_at_once(start: Start, payload: str) -> None:
    node = await start()
    async with node.db.transaction() as tx:
        with pytest.raises(ValueError, match=r"NUL|surrogates"):
            await node.signals.send(tx, TOPIC, payload)


# --- the others ----------------------------------------------------------------------------------------------


@postgresql
async def test_two_processes_hear_each_other_once_and_in_order(start: Start) -> None:
    one, two = await start(), await start()
    first, second = await Ear(one).ready(), await Ear(two).ready()
    began = time.monotonic()
    await one.send("a", "b c ", "é")
    assert [await second.next() for _ in range(3)] == ["a", "b c ", "é"]
    assert time.monotonic() - began < SOON
    await two.send("barrier")  # what the first has sent itself would come through its own connection before this
    assert [await first.next() for _ in range(4)] == ["a", "b c ", "é", "barrier"]
    assert await second.next() == "barrier"
    assert first.silent and second.silent


@sqlite
async def test_on_sqlite_what_others_commit_is_heard_as_something_missed(start: Start) -> None:
    one, two = await start(), await start()
    first, second = await Ear(one).ready(), await Ear(two).ready()
    for number in range(50):
        await one.send(f"{number}")
    assert [await first.next() for _ in range(50)] == [f"{number}" for number in range(50)]
    assert await second.next(SOON + WATCH_INTERVAL) is None
    await asyncio.sleep(WATCH_INTERVAL * 2.5)
    assert second.heard.qsize() <= 1, "commits within half a second are one"
    assert first.silent, "what it committed itself, it has heard already"


@sqlite
async def test_looking_at_the_file_does_not_wait_for_another_process_that_writes(start: Start) -> None:
    one, two = await start(), await start()
    ear = await Ear(two).ready()
    async with one.db.transaction() as tx:
        await tx.execute("INSERT INTO things (key) VALUES ('slow')")
        await asyncio.sleep(WATCH_INTERVAL * 1.5)
        assert ear.silent, "nothing is committed"
    assert await ear.next(SOON + WATCH_INTERVAL) is None


async def test_another_program_is_heard(start: Start, database: Database) -> None:
    ear = await Ear(await start()).ready()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SENDER, database.url)
    assert await process.wait() == 0
    heard = await ear.next(SOON + WATCH_INTERVAL)
    assert heard == ("from afar" if database.dialect == "postgresql" else None)


@postgresql
@pytest.mark.parametrize("over", [0, 1, 1_000_000])
async def test_a_payload_too_long_to_carry_is_heard_elsewhere_as_something_missed(start: Start, over: int) -> None:
    one, two = await start(), await start()
    first, second = await Ear(one).ready(), await Ear(two).ready()
    other = Ear(two, "test.other")
    header = len(f"{one.signals._sender} {TOPIC} é".encode())
    payload = "é" + "a" * (LONGEST_MESSAGE - header + over)
    await one.send(payload)
    assert await first.next() == payload
    assert await second.next() == (None if over else payload)
    assert other.silent


@postgresql
async def test_what_strangers_notify_does_no_harm(start: Start, database: Database) -> None:
    node = await start()
    ear = await Ear(node).ready()
    for message in ("", " ", "x", "x unknown.topic y", "{}"):
        await database.fetch_all("SELECT pg_notify('clavitor_signals', :message) AS done", {"message": message})
    await (await start()).send("a")
    assert await ear.next() == "a"


# --- the connection ------------------------------------------------------------------------------------------


@postgresql
async def test_without_subscribers_there_is_no_connection(
    start: Start, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_listen, "KEEPALIVE", 0.05)
    node = await start()
    await node.send("a")
    assert (tasks(), await listeners(database)) == ([], [])
    ears = [await Ear(node).ready(), Ear(node)]
    assert (tasks(), len(await listeners(database))) == (["signals"], 1)
    ears.pop().unsubscribe()
    await asyncio.sleep(0.2)
    assert len(await listeners(database)) == 1, "one subscription is left"
    ears.pop().unsubscribe()

    async def none() -> bool:
        return not tasks() and not await listeners(database)

    await until(none)
    await Ear(node).ready()


@sqlite
async def test_without_subscribers_nobody_looks_at_the_file(start: Start) -> None:
    node = await start()
    assert tasks() == []
    ear = await Ear(node).ready()
    assert tasks() == ["signals"]
    ear.unsubscribe()

    async def none() -> bool:
        return not tasks()

    await until(none)


@postgresql
async def test_a_lost_connection_comes_back_and_tells_that_something_may_be_missed(
    start: Start, database: Database
) -> None:
    one, two = await start(), await start()
    ear, other = await Ear(one).ready(), Ear(one, "test.other")
    for _ in range(3):
        (pid,) = await listeners(database)
        await database.fetch_all("SELECT pg_terminate_backend(:pid) AS done", {"pid": pid})
        await two.send("while it is away")
        await one.send("its own")
        heard = {await ear.next(), await ear.next(within=5)}
        assert heard == {"its own", None}
        assert await other.next() is None
        await two.send("back")
        assert await ear.next() == "back"
    assert ear.silent


@postgresql
async def test_a_server_that_falls_silent_counts_as_lost(
    start: Start, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_listen, "KEEPALIVE", 0.05)
    monkeypatch.setattr(postgres_listen, "KEEPALIVE_TIMEOUT", 0.3)
    async with Cable(database.url) as cable:
        node = await start(cable.url)
        ear = await Ear(node).ready()
        for writer in cable._writers:
            monkeypatch.setattr(writer, "write", lambda _: None)
        assert await ear.next(within=5) is None
        await (await start()).send("back")
        assert await ear.next() == "back"


@postgresql
async def test_a_database_that_is_away_at_first_is_listened_to_later(
    start: Start, postgres_server: PostgresServer, database: Database
) -> None:
    name = f"clavitor_{uuid4().hex}"
    node = await start(postgres_server.database_url(name), opened=False)
    ear = Ear(node)
    await asyncio.sleep(0.5)
    assert ear.silent
    await postgres_server.run(f'CREATE DATABASE "{name}"')
    try:
        assert await ear.next(within=10) is None
        stranger = f"SELECT pg_notify('clavitor_signals', 'someone {TOPIC} hello')"
        await postgres_server.run(stranger, node.db.url)
        assert await ear.next() == "hello"
    finally:
        await node.signals.stop()
        await postgres_server.run(f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_it_stops_at_once(start: Start, database: Database) -> None:
    node = await start()
    await Ear(node).ready()
    began = time.monotonic()
    await node.signals.stop()
    assert time.monotonic() - began < SOON
    assert tasks() == []
    await node.signals.stop()


@postgresql
@pytest.mark.parametrize("when", ["connecting", "listening"])
async def test_it_stops_although_the_server_does_not_answer(
    start: Start, database: Database, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with Cable(database.url) as cable:
        node = await start(cable.url)
        if when == "connecting":
            monkeypatch.setattr(cable, "_pump", lambda *_: asyncio.Event().wait())
            Ear(node)
            await asyncio.sleep(0.1)
        else:
            await Ear(node).ready()
            for writer in cable._writers:
                monkeypatch.setattr(writer, "write", lambda _: None)
        assert tasks() == ["signals"]
        began = time.monotonic()
        await node.signals.stop()
        assert time.monotonic() - began < SOON


@postgresql
async def test_a_commit_in_doubt_is_heard_as_something_missed(start: Start, database: Database) -> None:
    async with Cable(database.url) as cable:
        node = await start(cable.url)
        await node.signals.stop()
        ear = Ear(node)
        cable.cut_at_commit = "after"
        with pytest.raises(OutcomeUnknown):
            await node.send("a", "b")
        assert (await ear.next(), ear.silent) == (None, True)


async def test_listening_does_not_run_in_the_context_of_who_asked_for_it(start: Start) -> None:
    node = await start()
    token = log.request_id.set("a request")
    seen: asyncio.Queue[str] = asyncio.Queue()
    async with node.db.transaction():
        node.signals.subscribe(TOPIC, lambda _: seen.put_nowait(log.request_id.get()))
        log.request_id.reset(token)
    assert await seen.get() == ""


async def test_metrics_count_by_origin_and_promtool_finds_nothing(start: Start) -> None:
    node = await start()
    ear = await Ear(node).ready()
    await node.send("a", "b", topic="test.unheard")
    await node.send("a", "b")
    await ear.next()
    text = await node.metrics.render()
    assert b'clavitor_signals_received_total{origin="own"} 2.0' in text
    assert b'clavitor_signals_received_total{origin="missed"} 1.0' in text
    assert b"clavitor_signals_listening 1.0" in text
    await node.signals.stop()
    assert b"clavitor_signals_listening 0.0" in await node.metrics.render()
    if shutil.which("promtool") is not None:
        promtool = partial(subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True)
        done: Any = await asyncio.to_thread(promtool)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- in an app -----------------------------------------------------------------------------------------------


class Announcer(Plugin):
    """Sends a signal for every entry that is written."""

    name = "announcer"
    version = "1"

    @hookimpl
    async def entry_changing(self, host: Host, tx: Transaction, change: Change) -> None:
        await host.signals.send(tx, "announcer.entry", change.entry_id)
        await host.signals.send(tx, "announcer.head")


async def test_concurrent_writes_share_the_statement_as_they_share_the_commit(
    vault_url: str, tmp_path: Path, bundle: BundleInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_announcer = replace(bundle, plugins=(*bundle.plugins, FrozenPlugin("announcer", Announcer)))
    config = settings(tmp_path / "data", with_announcer, {"CLAVITOR_DATABASE_URL": vault_url})
    async with running_app(config, with_announcer) as one, running_app(config, with_announcer) as two:
        listening, entries, heads = asyncio.Event(), asyncio.Queue[str | None](), asyncio.Queue[str | None]()
        two.host.signals.subscribe("announcer.entry", lambda payload: listening.set())
        one.host.signals.subscribe("announcer.entry", entries.put_nowait)
        one.host.signals.subscribe("announcer.head", heads.put_nowait)
        assert [await entries.get(), await heads.get()] == [None, None]
        await listening.wait()
        await asyncio.sleep(WATCH_INTERVAL)
        client = await one.client_for("OPERATOR")
        statements = batches = 0
        fetch_val, begin = Transaction.fetch_val, one.host.db.engine.begin

        async def counted(self: Transaction, query: Any, values: Any = None) -> Any:
            nonlocal statements
            statements += "pg_notify" in str(query)
            return await fetch_val(self, query, values)

        async def counted_begin(*, batch: bool) -> Any:
            nonlocal batches
            batches += batch
            return await begin(batch=batch)

        monkeypatch.setattr(Transaction, "fetch_val", counted)
        monkeypatch.setattr(one.host.db.engine, "begin", counted_begin)
        answers = await asyncio.gather(
            *[client.put(f"/api/entries/e{n}", json={"encrypted_data": "QUJD"}) for n in range(64)]
        )
        assert {answer.status_code for answer in answers} == {201}
        own = [entries.get_nowait() for _ in range(64)]
        assert sorted(str(name) for name in own) == sorted(f"e{n}" for n in range(64))
        assert 1 <= heads.qsize() <= batches <= 16
        assert statements == (batches if one.host.db.dialect == "postgresql" else 0)
    assert tasks() == [], "they stop with their apps"


async def test_an_app_without_subscribers_does_not_listen(
    database_url: str, tmp_path: Path, bundle: BundleInfo
) -> None:
    config = settings(tmp_path / "data", bundle, {"CLAVITOR_DATABASE_URL": database_url})
    async with running_app(config, bundle) as running:
        assert tasks() == []
        if running.host.db.dialect == "postgresql":
            assert await listeners(running.host.db) == []
