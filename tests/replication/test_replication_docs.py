"""docs/replication.md: two POPs from two bundles, and the failover drill, run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import clavitor_commercial_replication
import pytest
from clavitor_commercial_replication import backoff, promotion, wire
from clavitor_commercial_replication.config import ReplicationConfig
from clavitor_commercial_replication.metrics import ReplicationMetrics

from clavitor_host.config.models import TlsConfig
from clavitor_host.metrics import Metrics
from clavitor_host.storage.database import sqlite_url
from tests.bundles.places import INTERPRETER
from tests.faults.workload import eventually
from tests.replication.invariants import check_alone, counts, read
from tests.replication.pair import new_address

PAGE = (Path(__file__).parents[2] / "docs" / "replication.md").read_text("utf-8")
PLUGIN = Path(clavitor_commercial_replication.__file__).parent

pytestmark = pytest.mark.timeout(420)


class Folder(NamedTuple):
    """One POP of the page."""

    name: str
    file: Path

    @property
    def database(self) -> str:
        return sqlite_url(self.file)


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


class Shell:
    """One `sh` that runs the page's commands, and all that they start."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._groups: list[int] = []

    def run(self, *parts: str) -> str:
        """Run commands; return what they print, errors too."""
        script = self._folder / "script.sh"
        script.write_text("\n".join(parts))
        output = self._folder / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-eu", str(script)],
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._groups.append(process.pid)
            code = process.wait(300)
        text = output.read_text("utf-8", "replace")
        assert code == 0, text + "".join(log.read_text() for log in self._folder.glob("*/server.log"))
        return text

    def end(self) -> None:
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.fixture
def shell(tmp_path: Path, built: Callable[[str], Path]) -> Iterator[Shell]:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python3").symlink_to(INTERPRETER)
    environ = {"PATH": f"{binaries}:{os.environ['PATH']}", "BUNDLE": str(built("commercial"))}
    for name in ("CALGARY", "ZURICH"):
        host, port = new_address()
        environ[name] = f"http://{host}:{port}"
    started = Shell(tmp_path, environ)
    try:
        yield started
    finally:
        started.end()


async def test_two_pops_in_five_minutes_and_a_failover_drill(tmp_path: Path, shell: Shell) -> None:
    first = blocks("sh", section("Two POPs in five minutes"))
    drill = blocks("sh", section("A failover drill"))
    said = await asyncio.to_thread(shell.run, *first, "echo THE DRILL", *drill)
    walk, _, after = said.partition("THE DRILL")
    before, _, died = walk.partition("HTTP/1.1 503")
    assert "HTTP/1.1 201" in before
    assert "x-clavitor-as-of: 2" in walk.lower()
    assert "x-clavitor-lag: " in walk.lower()
    assert re.search(rf"x-primary-location: {shell._environ['CALGARY']}\b", walk, re.IGNORECASE)
    assert '"Write operations not available on backup POP"' in walk
    assert f"{shell._environ['ZURICH']} answered, a backup" in died
    assert "\nZmlyc3Q=\n" in died
    assert f"the primary is at {shell._environ['CALGARY']}\nnot written\nCreated entry second" in died
    assert "Both POPs are equal." in died
    assert "All is well." in died
    assert "This POP is the primary now, of epoch 2." in after
    assert "Created entry third" in after
    assert "fenced" in after
    assert "Both POPs are equal." in after
    for name in ("calgary", "zurich"):
        log = (tmp_path / name / "server.log").read_text()
        assert "Traceback" not in log
        assert (tmp_path / name / "secret").read_text().strip() not in log
    old, new = (Folder(name, tmp_path / name / "data" / "vault.db") for name in ("calgary", "zurich"))

    async def confirmed() -> bool:
        return (await counts(new))["depth"] == 0

    await eventually(confirmed, within=75, every=0.5)
    await asyncio.to_thread(shell.run, "kill $(cat calgary/pid) $(cat zurich/pid)")
    theirs, ours = await read(old), await read(new)
    assert theirs.rows == ours.rows
    assert theirs.rows.keys() == {"first", "second", "third"}
    assert theirs.buckets == ours.buckets
    assert not theirs.dirty
    assert not ours.dirty
    assert (theirs.role["role"], theirs.role["epoch"]) == ("backup", 2)
    assert (ours.role["role"], ours.role["epoch"]) == ("primary", 2)
    for pop in (old, new):
        await check_alone(pop)


def test_every_alert_and_metric_is_on_the_page_and_no_other() -> None:
    source = "".join(file.read_text("utf-8") for file in PLUGIN.glob("*.py"))
    alert = r"\bREPLICATION_[A-Z]+\b"
    assert set(re.findall(alert, PAGE)) == set(re.findall(rf'"({alert})"', source))
    registry = Metrics("commercial_replication")
    ReplicationMetrics(registry, lambda: None)
    there = {info.name.removeprefix("clavitor_replication_") for info in registry.describe()}
    rows = re.findall(r"^\| (`.*?) \|", section("What to watch").partition("| alert |")[0], re.MULTILINE)
    told = {re.sub(r"\{.*\}", "", name) for row in rows for name in re.findall(r"`(.*?)`", row)}
    assert told == there


def test_the_configuration_on_the_page_is_right() -> None:
    (text,) = blocks("toml")
    found = tomllib.loads(text)
    TlsConfig(**found["tls"])
    ReplicationConfig(**found["plugins"]["commercial_replication"])


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    assert (backoff.FIRST, backoff.LONGEST) == (0.5, 60)
    assert "after 0.5 s, then at longer and longer intervals of up to 60 s" in PAGE
    assert wire.MAX_ENTRIES == 100
    assert "batches of at most 100 entries" in PAGE
    assert promotion.SILENT == 30
    assert "was heard of in the last 30 seconds" in PAGE
    assert promotion.GENERATION == 1_000_000_000
    assert ReplicationConfig.model_fields["compare_interval"].default == 60
