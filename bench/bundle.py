"""A built artifact beside the same server from a virtual environment: start, memory; and what building it takes."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

from bench.report import Ratio, Section, table
from bench.rounds import BrokenError, free_port, progress
from bench.seed import Vault, fresh, temporary
from bench.starts import Command, end, first_200, until_200

MANIFEST = "community"
FLOOR, ARTIFACT = "virtual environment", "artifact"
REQUESTS = 200
"""Before the memory is read a second time."""

START, MEMORY = 1.2, 1.3
"""Most of the virtual environment's."""
BUILD, AGAIN, VERIFY = 10.0, 3.0, 2.0
"""Most seconds."""

_CLAVITOR = (sys.executable, "-m", "clavitor_host")
_INTERPRETER = str(Path(sys.executable).resolve())
"""Of the machine: an artifact needs no virtual environment."""


def run(*, quick: bool) -> Section:
    """Build the artifact and measure it in turn with the virtual environment."""
    section = Section("Bundle: the built community artifact and a virtual environment")
    with temporary() as scratch:
        folder = Path(scratch)
        artifact = _builds(section, folder, rounds=2 if quick else 5)
        vault = fresh(folder / "vault")
        programs: dict[str, Sequence[str]] = {
            FLOOR: _CLAVITOR,
            ARTIFACT: (_INTERPRETER, str(artifact)),
        }
        _starts(section, programs, vault, rounds=5 if quick else 11)
        _memory(section, programs, vault, rounds=2 if quick else 5)
        progress("")
    return section


def _builds(section: Section, folder: Path, rounds: int) -> Path:
    """Measure building and verifying; return an artifact."""
    progress("bundle: fetching what is not cached")
    _bundle("build", MANIFEST, "-o", str(folder / "first"))
    (artifact,) = (folder / "first").glob("*.pyz")
    size = f"{artifact.stat().st_size / 1e6:.0f} MB"
    warm: list[_Took] = []
    again: list[_Took] = []
    verify: list[_Took] = []
    for number in range(rounds):
        progress(f"bundle: builds, round {number + 1} of {rounds}")
        cache = _only_wheels(folder / f"cache{number}")
        out = folder / f"build{number}"
        warm.append(_bundle("build", MANIFEST, "-o", str(out), cache=cache))
        again.append(_bundle("build", MANIFEST, "-o", str(out), cache=cache))
        if (out / artifact.name).read_bytes() != artifact.read_bytes():
            raise BrokenError("two builds are not the same bytes")
        verify.append(_bundle("verify", str(artifact)))
    for name, found, most in (
        ("build, only packages cached", warm, BUILD),
        ("build again", again, AGAIN),
        (f"verify {size}", verify, VERIFY),
    ):
        seconds, cpu = (median(figures) for figures in zip(*found, strict=True))
        section.ratios.append(Ratio(f"{name} ({seconds:.2f} s)", "1 s", seconds, most, at_least=False, by_cpu=cpu))
    return artifact


class _Took(NamedTuple):
    seconds: float
    cpu: float


def _bundle(*arguments: str, cache: Path | None = None) -> _Took:
    """Run a `clavitor bundle` command; return the seconds it took. cache: in place of the user's."""
    environ = {**os.environ, **({} if cache is None else {"XDG_CACHE_HOME": str(cache)})}
    began, used = perf_counter(), os.times()
    done = subprocess.run([*_CLAVITOR, "bundle", *arguments], env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BrokenError(f"clavitor bundle {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
    seconds, after = perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system - used.children_user - used.children_system
    return _Took(seconds, cpu)


def _only_wheels(cache: Path) -> Path:
    """Make a cache that holds the packages of the user's, and nothing that was made of them."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    users = Path(given) if given.startswith("/") else Path.home() / ".cache"
    (cache / "clavitor").mkdir(parents=True)
    (cache / "clavitor" / "wheels").symlink_to(users / "clavitor" / "wheels")
    return cache


def _serve(program: Sequence[str], vault: Vault) -> Command:
    return lambda port: [*program, "serve", "--data-dir", str(vault.folder), "--bind", f"127.0.0.1:{port}"]


def _starts(section: Section, programs: dict[str, Sequence[str]], vault: Vault, rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in programs}
    used: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            progress(f"bundle: start, round {number + 1} of {rounds + 1}, {name}")
            seconds, cpu = first_200(_serve(program, vault), "/healthz")
            if number:
                times[name].append(seconds)
                used[name].append(cpu)
    rows = [["", "median ms", "lowest", "cpu ms"]]
    for name, found in times.items():
        rows.append([name, *(f"{s * 1e3:.0f}" for s in (median(found), min(found), median(used[name])))])
    section.head += ["start to the first 200", *table(rows, "<>>>")]
    ratio = _ratio("start", "ms", 1e3, times, START)
    section.ratios.append(replace(ratio, by_cpu=median(used[ARTIFACT]) / median(used[FLOOR])))


def _memory(section: Section, programs: dict[str, Sequence[str]], vault: Vault, rounds: int) -> None:
    started: dict[str, list[float]] = {name: [] for name in programs}
    used: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds):
        for name, program in programs.items():
            progress(f"bundle: memory, round {number + 1} of {rounds}, {name}")
            port = free_port()
            process, _ = until_200(_serve(program, vault), port, "/healthz")
            try:
                started[name].append(_rss(process.pid))
                _ask(port, vault.token)
                used[name].append(_rss(process.pid))
            finally:
                end(process)
    rows = [["", "after start", f"after {REQUESTS} requests"]]
    rows += [[name, *(f"{median(found[name]):.0f} MB" for found in (started, used))] for name in programs]
    section.head += ["", "resident memory", *table(rows, "<>>")]
    section.ratios.append(_ratio("RSS after start", "MB", 1, started, MEMORY))
    section.ratios.append(_ratio(f"RSS after {REQUESTS} requests", "MB", 1, used, MEMORY))


def _ratio(what: str, unit: str, scale: float, found: dict[str, list[float]], most: float) -> Ratio:
    """Return the median, over the rounds, of the artifact's figure by the virtual environment's."""
    value, floor = (f"{name}, {what} ({median(found[name]) * scale:.0f} {unit})" for name in (ARTIFACT, FLOOR))
    pairs = zip(found[ARTIFACT], found[FLOOR], strict=True)
    return Ratio(value, floor, median(ours / theirs for ours, theirs in pairs), most, at_least=False)


def _rss(process: int) -> float:
    """Return the resident memory of a process in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise BrokenError("the server ended")


def _ask(port: int, token: str) -> None:
    """Write and read entries, `REQUESTS` in all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for number in range(REQUESTS // 2):
        for method, body in (("PUT", b'{"encrypted_data":"QUJD"}'), ("GET", None)):
            connection.request(method, f"/api/entries/e{number}", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status not in (200, 201):
                raise BrokenError(f"{method} was answered {answer.status}")
    connection.close()
