"""Time from the start of the process to the first 200, against a bare Hypercorn + Quart program."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

from bench.load import percentile
from bench.machine import cpu_seconds
from bench.report import Ratio, Section, table
from bench.rounds import START_PATIENCE, BrokenError, free_port, progress
from bench.seed import CACHE, fresh, temporary

TARGET = 2.0
Command = Callable[[int], list[str]]


def run(*, quick: bool) -> Section:
    """Measure in turn, after one unmeasured start of each."""
    rounds = 5 if quick else 11
    times: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    with temporary() as scratch:
        kept = fresh(Path(scratch) / "kept").folder
        new = Path(scratch) / "new"

        def product(folder: Path) -> Command:
            data = ["--data-dir", str(folder)]
            return lambda port: [_program("clavitor"), "serve", *data, "--bind", f"127.0.0.1:{port}"]

        contenders = {
            "bare Hypercorn + Quart": (_bare, "/"),
            "clavitor serve, database exists": (product(kept), "/healthz"),
            "clavitor serve, new database": (product(new), "/healthz"),
        }
        for number in range(rounds + 1):
            for name, (command, path) in contenders.items():
                progress(f"start: round {number + 1} of {rounds + 1}, {name}")
                shutil.rmtree(new, ignore_errors=True)
                seconds, cpu = first_200(command, path)
                if number:
                    times.setdefault(name, []).append(seconds)
                    used.setdefault(name, []).append(cpu)
        progress("")
    return _section(times, used)


def first_200(command: Command, path: str) -> tuple[float, float]:
    """Start a program and end it; return the seconds to its first 200 for `GET path`, and its CPU time until then."""
    process, seconds = until_200(command, free_port(), path)
    try:
        return seconds, cpu_seconds(process.pid)
    finally:
        end(process)


def until_200(command: Command, port: int, path: str) -> tuple[subprocess.Popen[bytes], float]:
    """Start a program; return it, and the seconds to its first 200 for `GET path`. Raises `BrokenError`."""
    start = perf_counter()
    process = subprocess.Popen(
        command(port), cwd=CACHE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not _is_200(port, path):
        if process.poll() is not None or perf_counter() - start > START_PATIENCE:
            process.kill()
            raise BrokenError(f"did not start: {process.communicate()[1].decode()}")
        sleep(0.001)
    return process, perf_counter() - start


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a program that `until_200` started."""
    process.terminate()
    process.communicate()


def _is_200(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _bare(port: int) -> list[str]:
    return [sys.executable, str(Path(__file__).parent / "bare.py"), str(port)]


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _section(times: dict[str, list[float]], used: dict[str, list[float]]) -> Section:
    section = Section("Start: process start to the first 200")
    rows = [["", "median ms", "lowest", "p90", "cpu ms"]]
    for name, found in times.items():
        ordered = sorted(found)
        figures = median(found), ordered[0], percentile(ordered, 0.9), median(used[name])
        rows.append([name, *(f"{seconds * 1e3:.0f}" for seconds in figures)])
    floor, *ours = times
    for name in ours:
        ratio = median(mine / bare for mine, bare in zip(times[name], times[floor], strict=True))
        target = TARGET if "exists" in name else None
        value, against = [f"{who} ({median(times[who]) * 1e3:.0f} ms)" for who in (name, floor)]
        by_cpu = median(used[name]) / median(used[floor])
        section.ratios.append(Ratio(value, against, ratio, target, at_least=False, by_cpu=by_cpu))
    section.head = table(rows, "<>>>>")
    return section
