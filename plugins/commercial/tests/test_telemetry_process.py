"""Telemetry of whole processes: a crash loses nothing; what the command line shows is what is sent."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clavitor_commercial_testing import (
    BUNDLE,
    TOKEN,
    Receiver,
    commercial,
    environ_of,
    eventually,
    metrics_of,
    raise_alerts,
    receiving,
)

from clavitor_host.app import create_host
from clavitor_host.testing import settings
from clavitor_host.testing.process import ServerProcess

PROGRAM = (sys.executable, "-m", "clavitor_commercial_testing.program")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


def server_on(folder: Path, receiver: Receiver, **options: Any) -> ServerProcess:
    return ServerProcess(folder, program=PROGRAM, bundle=BUNDLE, environ=environ_of(receiver), **options)


def on_database(server: ServerProcess, statement: str) -> list[Any]:
    with closing(sqlite3.connect(server.data_dir / "vault.db")) as database, database:
        return database.execute(statement).fetchall()


async def raise_alert(server: ServerProcess, message: str) -> None:
    """Raise an alert in a process beside the server, as an offline command does."""
    app = create_host(settings(server.data_dir, BUNDLE, _only_ours(server.environ)), BUNDLE)
    await app.start(offline=True)
    await app.host.edition.alert_operator("test_alert", message)
    await app.stop()


def _only_ours(environ: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith("CLAVITOR_")}


async def _a_report_failed(server: ServerProcess) -> bool:
    return bool(on_database(server, "SELECT 1 FROM telemetry_state WHERE kind = 'report' AND error IS NOT NULL"))


async def test_after_a_crash_what_was_spooled_is_delivered_once(receiver: Receiver, tmp_path: Path) -> None:
    await receiver.stop()
    server = server_on(tmp_path, receiver, workers=2)
    try:
        await asyncio.to_thread(server.start)
        assert "Commercial Edition" in server.last_log
        for n in range(3):
            await raise_alert(server, f"a{n}")
        await eventually(lambda: _a_report_failed(server))
        server.kill()
        assert on_database(server, "SELECT kind, count(*) FROM telemetry_spool GROUP BY kind ORDER BY kind") == [
            ("alert", 3),
            ("report", 1),
        ]
        on_database(server, "UPDATE leases SET expires_at = 0")  # 30 s pass: the dead holder's lease is free
        await receiver.start()
        await asyncio.to_thread(server.start)
        alerts = await receiver.wait_alerts(3)
        await receiver.wait_reports(1)
        assert await asyncio.to_thread(server.terminate) < 3
    finally:
        await asyncio.to_thread(server.end)
    assert [alert["message"] for alert in alerts] == ["a0", "a1", "a2"]
    taken = [request.body["id"] for request in receiver.taken]
    assert len(taken) == len(set(taken)) == 4
    assert on_database(server, "SELECT count(*) FROM telemetry_spool") == [(0,)]
    assert TOKEN not in server.log
    assert "Traceback" not in server.log


async def test_a_hanging_receiver_does_not_delay_the_end(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = "hang"
    server = server_on(tmp_path, receiver)
    try:
        await asyncio.to_thread(server.start)
        await receiver.wait_seen(1)
        assert (
            await asyncio.to_thread(server.terminate) < 2.0
        )  # with the interpreter's own end; the job alone is measured elsewhere
        preview = await asyncio.to_thread(server.run, "telemetry", "preview", "--json")
        shown, sent = json.loads(preview.stdout), receiver.seen[0].body
        assert list(shown) == list(sent)
        assert shown["audit"] == sent["audit"]
        differs = {name for name in sent if shown[name] != sent[name]}
        assert differs <= {"id", "at", "uptime_seconds"}
        assert shown["uptime_seconds"] is None
        for_people = await asyncio.to_thread(server.run, "telemetry", "preview")
        assert f"POST {receiver.url}/v1/metrics, every 60 s" in for_people.stderr
        assert set(json.loads(for_people.stdout)) == set(sent)
        status = await asyncio.to_thread(server.run, "telemetry", "status")
        assert status.returncode == 0, status.stderr
        assert f"telemetry:            on, to {receiver.url}" in status.stdout
        assert "1 waiting, the oldest since 2" in status.stdout
        on_database(server, "UPDATE telemetry_spool SET at = at - 3600000000")
        on_database(server, "UPDATE telemetry_state SET error = 'it answers 500', error_at = 0")
        status = await asyncio.to_thread(server.run, "telemetry", "status")
        assert (status.returncode, status.stdout.count("it answers 500")) == (5, 1)
        assert "has not been delivered for 60 minutes" in status.stderr
        status = await asyncio.to_thread(server.run, "telemetry", "status", "--json")
        found = json.loads(status.stdout)
        assert (found["telemetry"], found["reports"]["spooled"], found["reports"]["last_success_at"]) == (True, 1, None)
    finally:
        await asyncio.to_thread(server.end)
    assert TOKEN not in server.log


async def test_unconfigured_commands_say_that_nothing_is_sent(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, program=PROGRAM, bundle=BUNDLE)
    app = create_host(settings(server.data_dir, BUNDLE), BUNDLE)
    await app.start(offline=True)  # makes the database
    await app.stop()
    status, preview = await asyncio.gather(
        asyncio.to_thread(server.run, "telemetry", "status"), asyncio.to_thread(server.run, "telemetry", "preview")
    )
    assert status.stdout.startswith("telemetry:            off\n")
    assert "Telemetry is off: nothing is sent." in preview.stderr
    assert json.loads(preview.stdout)["edition"] == "commercial"


@pytest.mark.skipif(not shutil.which("promtool"), reason="install prometheus for promtool")
async def test_promtool_finds_nothing_to_say(receiver: Receiver, tmp_path: Path) -> None:
    async with commercial(tmp_path, environ_of(receiver)) as harness:
        await raise_alerts(harness, ["one"])
        await receiver.wait_alerts(1)
        text = await metrics_of(harness)
    found = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")
