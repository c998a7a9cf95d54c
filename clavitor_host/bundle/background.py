"""Work in a process of its own: beside ours, and able to die without taking ours along."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
from collections.abc import Callable, Iterable
from typing import Any

CPU_SECONDS = 120
"""Processor time after which a piece of work is taken to hang."""

MEMORY = 8 << 30
"""Bytes of address space it may take."""


class Background:
    """A forked process that runs `work` and hands over the JSON values that it yields."""

    def __init__(self, work: Callable[[], Iterable[Any]]) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(reading)
            _run(work, writing)
        os.close(writing)
        self._reading = reading

    def finish(self) -> tuple[list[Any], str]:
        """Wait for its end. Returns what it yielded, and why it ended early: "" for an orderly end."""
        with os.fdopen(self._reading, "rb") as pipe:
            lines = pipe.read().split(b"\n")
        _, status = os.waitpid(self._pid, 0)
        values = [json.loads(line) for line in lines[:-1]]
        if os.WIFSIGNALED(status):
            return values, f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        if os.WEXITSTATUS(status):
            return values[:-1], str(values[-1]) if values else "ended without a word"
        return values, ""


def _run(work: Callable[[], Iterable[Any]], writing: int) -> None:
    """Run in the child; never returns, and leaves nothing of the parent's behind."""
    code = 1
    try:
        gc.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
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
