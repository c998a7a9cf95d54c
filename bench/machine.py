"""What the figures were measured on, and how the cores are shared out."""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.load import percentile


@dataclass(frozen=True, slots=True)
class Cores:
    """CPUs of the client and of the server under load; empty when there is but one, so nothing is pinned."""

    client: tuple[int, ...]
    server: tuple[int, ...]


def cores() -> Cores:
    """Give the last CPU to the server and one other to the client."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores((usable[0],), (usable[-1],)) if len(usable) > 1 else Cores((), ())


def fsync_times(folder: Path, count: int = 300) -> tuple[float, float]:
    """Return p50 and p99, in seconds, of appending 4 KiB to a file in `folder` and calling fdatasync."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        block = os.urandom(4096)
        for _ in range(count):
            os.write(file.fileno(), block)
            start = perf_counter()
            os.fdatasync(file.fileno())
            times.append(perf_counter() - start)
    times.sort()
    return percentile(times, 0.5), percentile(times, 0.99)


def facts(folder: Path, pinned: Cores) -> dict[str, str]:
    """Return what to print above the figures; `folder` is where the databases are."""
    p50, p99 = fsync_times(folder)
    load = os.getloadavg()[0]
    where = f"client on CPU {pinned.client[0]}, server on CPU {pinned.server[0]}" if pinned.server else "not pinned"
    found = {
        "cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} usable; {where}",
        "kernel": platform.release(),
        "python": f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        "filesystem": f"{filesystem(folder)}; fdatasync of 4 KiB: p50 {p50 * 1e6:.0f} µs, p99 {p99 * 1e6:.0f} µs",
        "load": f"{load:.2f} at the start",
    }
    if load > 0.5:
        found["load"] += ": something else is running, so the figures are rough"
    return found


def filesystem(folder: Path) -> str:
    """Return the type of the file system that holds `folder`."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4]
        if len(mount) >= len(best) and _is_below(folder.resolve(), mount):
            best, kind = mount, right.split()[0]
    return kind


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> int:
    """Return the bytes of memory of a process that are resident."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no figure for process {process}")


def raise_file_limit() -> None:
    """Let this process, and those it starts, open as many files as they may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _is_below(folder: Path, mount: str) -> bool:
    return mount == "/" or str(folder) == mount or str(folder).startswith(f"{mount}/")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
