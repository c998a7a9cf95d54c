"""Background work, as plugins describe it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

JobFunction = Callable[[], Awaitable[None]]


class Job(NamedTuple):
    """One piece of background work; make it with `every`, `cron` or `worker`.

    `name` is unique within the plugin. `exclusive`: runs in one process of a deployment. `run_missed`: a cron
    time that passed while no process ran is made up for once, at start.
    """

    name: str
    kind: Literal["every", "cron", "worker"]
    function: JobFunction
    exclusive: bool = False
    seconds: float = 0.0
    first_after: float = 0.0
    expression: str = ""
    run_missed: bool = False


def every(
    seconds: float, function: JobFunction, *, name: str, first_after: float | None = None, exclusive: bool = False
) -> Job:
    """Run `function` every `seconds`, counted from the end of one run to the start of the next."""
    after = seconds if first_after is None else first_after
    return Job(name, "every", function, exclusive, seconds=seconds, first_after=after)


def cron(expression: str, function: JobFunction, *, name: str, exclusive: bool = True, run_missed: bool = False) -> Job:
    """Run `function` at the times of a cron expression (five fields, server time)."""
    return Job(name, "cron", function, exclusive, expression=expression, run_missed=run_missed)


def worker(function: JobFunction, *, name: str, exclusive: bool = False) -> Job:
    """Keep `function` running: it is started again, with growing pauses, whenever it returns or fails."""
    return Job(name, "worker", function, exclusive)
