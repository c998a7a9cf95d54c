"""Work in a process of its own: beside ours, and able to die without taking ours along."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CPU_SECONDS = 10
"""Processor time after which a piece of work is taken to hang, before what its input needs is added."""

MEMORY = 1 << 30
"""Bytes of address space it may take beyond what this process has already."""

Seen = Callable[[Any], None]


class Background:
    """A forked process that runs `work` and hands over the JSON values that it yields.

    seconds: of processor time that its input needs in the worst case; after CPU_SECONDS more it is killed.
    """

    def __init__(self, work: Callable[[], Iterable[Any]], seconds: int = 0) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(reading)
            _run(work, writing, CPU_SECONDS + seconds)
        os.close(writing)
        self._reading = reading

    def finish(self, seen: Seen = lambda value: None) -> tuple[list[Any], str]:
        """Wait for its end. Returns what it yielded, and why it ended early: "" for an orderly end.

        seen: called with each value as it comes.
        """
        values = []
        with os.fdopen(self._reading, "rb") as pipe:
            for line in pipe:
                if line.endswith(b"\n"):  # else it died while it wrote
                    values.append(json.loads(line))
                    seen(values[-1])
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSIGNALED(status):
            return values, f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        if os.WEXITSTATUS(status):
            return values[:-1], str(values[-1]) if values else "ended without a word"
        return values, ""


def _run(work: Callable[[], Iterable[Any]], writing: int, seconds: int) -> None:
    """Run in the child; never returns, and leaves nothing of the parent's behind."""
    code = 1
    try:
        gc.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        _limit_memory()
        with os.fdopen(writing, "wb") as pipe:
            try:
                for value in work():
                    pipe.write(json.dumps(value).encode() + b"\n")
                    pipe.flush()
                code = 0
            except BaseException as error:  # noqa: BLE001 - told to the parent
                pipe.write(json.dumps(f"{type(error).__name__}: {error}").encode() + b"\n")
    finally:
        os._exit(code)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
