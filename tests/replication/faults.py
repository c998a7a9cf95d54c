"""Faults of a machine: a disk without room, one that fails to sync, a clock that jumps."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.workload import Ledger, eventually
from tests.replication.pair import Pop


def fill(file: Path) -> None:
    """Leave no free byte on the file system of `file`."""
    with file.open("wb", buffering=0) as ballast:
        for size in (1024 * 1024, 4096, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def give_room(folder: Path, size: str = "64m") -> None:
    """Make the tmpfs at `folder` larger."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@asynccontextmanager
async def failing_sync(pop: Pop) -> AsyncIterator[None]:
    """Every fsync of a process fails with EIO meanwhile."""
    if shutil.which("strace") is None:
        pytest.skip("a failing fsync needs strace: install strace")
    strace = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-o", os.devnull, "-e", "trace=fdatasync,fsync"),
        *("-e", "inject=fdatasync,fsync:error=EIO", "-p", str(pop.pid)),
        stderr=subprocess.PIPE,
    )
    try:
        assert strace.stderr is not None
        line = await asyncio.wait_for(strace.stderr.readline(), 20)
        if b"attached" not in line:
            pytest.skip(f"strace cannot attach here: {line.decode().strip()}")
        yield
    finally:
        if strace.returncode is None:
            strace.send_signal(signal.SIGINT)
            await strace.wait()


class Clock:
    """A clock of one process that a test sets: libfaketime, told by a file. `environ`: what the process needs."""

    def __init__(self, file: Path) -> None:
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            pytest.skip("a clock that jumps needs libfaketime: install faketime")
        self._file = file
        self.jump("+0")
        self.environ: Mapping[str, str] = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, offset: str) -> None:
        """Set the clock, as an offset to the true one: `+20h`, `-3d`, `+0`."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{offset}\n", "ascii")
        draft.rename(self._file)


async def refused(ledger: Ledger, *codes: str, count: int = 10) -> None:
    """Wait until that many more writes were refused with one of these codes."""

    def so_far() -> int:
        return sum(ledger.statuses[code] for code in codes)

    before = so_far()

    async def enough() -> bool:
        return so_far() - before >= count

    await eventually(enough, within=60)
