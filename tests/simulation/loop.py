"""An asyncio event loop in virtual time: no sockets, no threads, and the same order of events for the same input.

When nothing is ready, time jumps to the next timer. What asyncio keeps in sets (`asyncio.wait`) is hashed by the
number it was made with, not by its address, so sets have the same order in every run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from itertools import count
from typing import Any, NoReturn, TypeVar, TypeVarTuple

T = TypeVar("T")
Given = TypeVarTuple("Given")

EPOCH = 1_780_000_000_000_000
"""µs since the epoch at which every run begins (May 2026)."""

PROCESS: ContextVar[Process | None] = ContextVar("simulated_process", default=None)


def outside() -> Context:
    """Return the context of what belongs to no process: what starts there outlives whoever starts it."""
    context = Context()
    context.run(PROCESS.set, None)
    return context


class Process:
    """The tasks of one simulated server process, which end together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        self.alive = True
        self.context = Context()
        self.context.run(PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task of this process, and of what it starts in turn."""
        return asyncio.get_running_loop().create_task(work, context=self.context.copy())

    def kill(self) -> None:
        """End every task at its next step. What they do on the way out reaches nothing: see `database` and `pop`."""
        self.alive = False
        for task in list(self.tasks.values()):
            task.cancel()


class Future(asyncio.Future[Any]):
    """A future with a hash that is the same in every run."""

    def __init__(self, *, loop: Loop) -> None:
        self.number = next(loop.numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class Task(asyncio.Task[Any]):
    """A task with a hash that is the same in every run."""

    def __init__(self, work: Any, *, loop: Loop, context: Context | None = None) -> None:
        self.number = next(loop.numbers)
        super().__init__(work, loop=loop, context=context)

    def __hash__(self) -> int:
        return self.number


class _Selector:
    """Where the loop would wait for sockets, time passes."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation is stuck: every task waits for another")
        self._loop.now += timeout
        return []


class Loop(asyncio.BaseEventLoop):
    """`now`: seconds since the run began. `errors`: what nobody caught."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.numbers = count(1)
        self.errors: list[str] = []
        self._selector = _Selector(self)
        self._clock_resolution = 1e-9
        self.set_task_factory(_new_task)
        self.set_exception_handler(_note_error)

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[Any]:
        return Future(loop=self)

    def call_soon_threadsafe(
        self, callback: Callable[[*Given], object], *args: *Given, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[*Given], T], *args: *Given) -> NoReturn:
        raise RuntimeError(f"there are no threads in a simulation, but {func} wants one")

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody waits in a selector."""


def _new_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
) -> asyncio.Task[T]:
    assert isinstance(loop, Loop)
    context: Context | None = options.get("context")
    process = context[PROCESS] if context is not None and PROCESS in context else PROCESS.get()
    task = Task(work, loop=loop, context=context)
    if process is not None:
        tasks, number = process.tasks, task.number
        tasks[number] = task
        task.add_done_callback(lambda _: tasks.pop(number, None))
        if not process.alive:
            task.cancel()
    return task


def _note_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, Loop)
    error = context.get("exception")
    loop.errors.append(f"{context['message']}: {type(error).__name__}: {error}")


class WallClock:
    """The clocks of one machine. `ahead`: µs by which its wall clock is wrong; `grain`: µs of one of its ticks."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.ahead = 0
        self.grain = 1

    def now_us(self) -> int:
        return self.at(self._loop.now)

    def at(self, time: float) -> int:
        """Return what it shows, as it goes now, at a virtual time."""
        shown = EPOCH + int(time * 1_000_000) + self.ahead
        return shown - shown % self.grain

    def monotonic(self) -> float:
        return self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run_to_end(loop: Loop, work: Awaitable[T]) -> T:
    """Run `work` on `loop`."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(work)
    finally:
        asyncio.set_event_loop(None)
