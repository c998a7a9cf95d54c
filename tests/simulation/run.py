"""One run: everything a seed does, and what it shows."""

from __future__ import annotations

import atexit
import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from clavitor_host import app as host_app
from clavitor_host.log import where
from tests.simulation.chance import seeded
from tests.simulation.database import remove
from tests.simulation.loop import Loop, run_to_end
from tests.simulation.mutants import batches_of, mutated
from tests.simulation.pop import prepare
from tests.simulation.scenarios import play
from tests.simulation.world import World

EXCUSED = ("A plugin's hook failed", "'hook': 'startup'", "StorageUnavailable")
"""What may be logged as an error: a POP whose disk is full cannot start when it has to note that it was superseded."""

COLLECT_EVERY = 100
"""Runs after which what they left is thrown away."""


class Trace(NamedTuple):
    """All that happened in a run. `broken`: the invariant that did not hold, "" when all did."""

    seed: int
    lines: tuple[str, ...]
    broken: str

    def text(self) -> str:
        """Return it for people, and for comparison."""
        return "\n".join((f"seed {self.seed}", *self.lines, self.broken or "all invariants hold", ""))


def run(seed: int, mutant: str | None = None) -> Trace:
    """Return what a seed does, the same bytes every time. mutant: of `mutants`, takes one guard away."""
    folder = workplace()
    with quiet() as logged, _no_collector():
        prepare(folder)
        with seeded(seed), mutated(mutant):
            return _played(seed, folder, logged)


def _played(seed: int, folder: Path, logged: list[str]) -> Trace:
    loop = Loop()
    world = World(seed, folder, loop)

    async def play_to_end() -> None:
        try:
            await play(world)
        except Exception as error:  # noqa: BLE001 - a mutant may break anything
            world.fail(f"the run cannot go on: {type(error).__name__}: {error} at {where(error)}")
        finally:
            await world.close()

    with batches_of(world.plan.batch):
        run_to_end(loop, play_to_end())
    for error in (*loop.errors, *logged):
        if not all(part in error for part in EXCUSED):
            world.fail(f"unexpected: {error}")
    loop.close()
    return Trace(seed, tuple(world.lines), world.broken[0] if world.broken else "")


@cache
def workplace() -> Path:
    """Return this process's folder, in memory where the system has one; gone in the end."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="clavitor-simulation-", dir=shared if shared.is_dir() else None))
    atexit.register(remove, folder)
    return folder


_LOGGED: list[list[str]] = []
_RUNS = count(1)


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Collect what is logged as an error; nothing is logged elsewhere. Entered once for many runs, it costs less."""
    if _LOGGED:
        _LOGGED[0].clear()
        yield _LOGGED[0]
        return
    errors: list[str] = []
    logger.remove()
    sink = logger.add(lambda message: errors.append(str(message).strip()), level="ERROR", format="{message} {extra}")
    later, host_app.METRICS_LOAD = host_app.METRICS_LOAD, 1e9  # metrics are counted, and never rendered here
    _LOGGED.append(errors)
    try:
        yield errors
    finally:
        _LOGGED.clear()
        host_app.METRICS_LOAD = later
        logger.remove(sink)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the collector of garbage still: nobody can repeat the moment at which it comes."""
    if next(_RUNS) % COLLECT_EVERY == 0:
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
