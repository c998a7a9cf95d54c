"""How hooks are called: one method per kind, each isolating errors as the contract says (hookspecs.py).

pluggy is synchronous and lets one exception end a call, so it only keeps the order of implementations here.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from clavitor_host import log
from clavitor_host.errors import Problem, forbidden, unauthorized
from clavitor_host.plugins.records import Implementation, PluginRecord, describe_error

if TYPE_CHECKING:
    from clavitor_host.metrics import Counter, Metrics
    from clavitor_host.plugins.registry import PluginRegistry

REFUSE_ON_ERROR = frozenset({"authenticate"})
"""First-answer hooks whose error is a refusal instead of no answer."""


class HookTimeout(TimeoutError):
    """An implementation took longer than the contract allows."""


class HookCancelled(RuntimeError):
    """An implementation let a `CancelledError` out although nobody cancelled its caller."""


class Hooks:
    """Calls hooks over the live implementations of a registry, in call order.

    Arguments are given by keyword; an implementation gets those it names. Time is added to its record, and an
    error is reported: a log line, `PluginRecord.last_error` and `clavitor_plugin_errors_total`.
    """

    def __init__(self, registry: PluginRegistry, metrics: Metrics | None = None) -> None:
        self.registry = registry
        self._live = registry.live
        self._errors: Counter | None = None
        if metrics is not None:
            self._errors = metrics.counter(
                "clavitor_plugin_errors_total", "Errors and time-outs of plugin hooks.", ("plugin", "hook")
            )

    def has(self, name: str) -> bool:
        """Tell whether any plugin implements a hook. Costs one look-up."""
        return bool(self._live[name])

    def single(self, name: str, /, **arguments: Any) -> Any:
        """Call the one owner of a hook; its error is the caller's."""
        (implementation,) = self._live[name]
        return _call(implementation, arguments)

    def first(self, name: str, /, **arguments: Any) -> Any:
        """Return the first answer that is not None of a sync hook, or None."""
        for _, answer in self._answers(name, arguments):
            return answer
        return None

    def answers(self, name: str, /, **arguments: Any) -> list[tuple[PluginRecord, Any]]:
        """Return every answer that is not None of a sync hook, for hooks whose answers are combined."""
        return list(self._answers(name, arguments))

    async def first_async(self, name: str, /, **arguments: Any) -> Any:
        """Return the first answer that is not None, or None.

        An error skips to the next plugin. For `authenticate` it is a refusal: 401, or the plugin's own
        `Problem` when that says the answer cannot be known now (5xx).
        """
        for implementation in self._live[name]:
            try:
                answer = await _await(implementation, arguments)
            except Exception as error:
                if not (isinstance(error, Problem) and name in REFUSE_ON_ERROR):
                    self.report(implementation, error)
                if name not in REFUSE_ON_ERROR:
                    continue
                if isinstance(error, Problem) and error.status >= 500:
                    raise
                raise unauthorized() from error
            if answer is not None:
                return answer
        return None

    async def broadcast(self, name: str, /, **arguments: Any) -> None:
        """Call every implementation in turn; no error reaches the caller or the others."""
        for implementation in self._live[name]:
            try:
                await _await(implementation, arguments)
            except Exception as error:  # noqa: BLE001 - isolation: whatever a plugin raises
                self.report(implementation, error)

    async def policy(self, name: str, /, **arguments: Any) -> None:
        """Ask every implementation; return when none objects.

        A `Problem` is raised as it is, any other error or a time-out as a 403 (fail closed).
        """
        for implementation in self._live[name]:
            try:
                await _await(implementation, arguments)
            except Problem:
                raise
            except Exception as error:
                self.report(implementation, error)
                raise forbidden("A policy could not be evaluated, so this was refused.") from error

    async def in_transaction(self, name: str, /, **arguments: Any) -> None:
        """Call every implementation in turn; the first error aborts the write that calls."""
        for implementation in self._live[name]:
            try:
                await _await(implementation, arguments)
            except Problem:
                raise
            except Exception as error:
                self.report(implementation, error)
                raise

    def contributions(self, name: str, /, **arguments: Any) -> list[tuple[PluginRecord, Any]]:
        """Collect what plugins add at start, in call order.

        An error quarantines an optional plugin; for a required one it raises `PluginError`.
        """
        return list(self._answers(name, arguments, on_error=self.registry.fail))

    async def contributions_async(self, name: str, /, **arguments: Any) -> list[tuple[PluginRecord, Any]]:
        """Collect what plugins add to one call, in call order.

        An error leaves that plugin out and is reported; in a transaction (the hook has `tx`) it aborts it,
        since half a count would let a cap be passed.
        """
        found = []
        for implementation in self._live[name]:
            try:
                value = await _await(implementation, arguments)
            except Exception as error:
                self.report(implementation, error)
                if "tx" in arguments:
                    raise
                continue
            if value is not None:
                found.append((implementation.record, value))
        return found

    def _answers(
        self,
        name: str,
        arguments: dict[str, Any],
        on_error: Callable[[PluginRecord, str, BaseException], None] | None = None,
    ) -> Iterator[tuple[PluginRecord, Any]]:
        for implementation in self._live[name]:
            try:
                answer = _call(implementation, arguments)
            except Exception as error:  # noqa: BLE001 - isolation: whatever a plugin raises
                self.report(implementation, error)
                if on_error is not None:
                    on_error(implementation.record, name, error)
                continue
            if answer is not None:
                yield implementation.record, answer

    async def call(self, implementation: Implementation, /, **arguments: Any) -> Any:
        """Await one implementation of an async hook under its time-out; its error is the caller's."""
        return await _await(implementation, arguments)

    def report(self, implementation: Implementation, error: BaseException) -> None:
        """Make an error of a plugin visible: log, record, metric."""
        record, hook = implementation.record, implementation.hook
        text = describe_error(error)
        record.last_error = f"{hook}: {text}"
        implementation.stats.errors += 1
        if self._errors is not None:
            self._errors.labels(record.name, hook).inc()
        log.error("A plugin's hook failed", plugin=record.name, hook=hook, error=text, at=log.where(error))


def _call(implementation: Implementation, arguments: dict[str, Any]) -> Any:
    values = [arguments[name] for name in implementation.arguments]
    started = perf_counter()
    try:
        return implementation.function(*values)
    finally:
        stats = implementation.stats
        stats.calls += 1
        stats.seconds += perf_counter() - started


async def _await(implementation: Implementation, arguments: dict[str, Any]) -> Any:
    """Await an implementation under its time-out.

    Its first step is taken by hand: most implementations finish in it, and a timer costs five times as much
    as the whole call.
    """
    values = [arguments[name] for name in implementation.arguments]
    started = perf_counter()
    try:
        coroutine = implementation.function(*values)
        try:
            pending = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        return await _finish(coroutine, pending, implementation.timeout)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise HookCancelled("it was cancelled from inside") from error
    finally:
        stats = implementation.stats
        stats.calls += 1
        stats.seconds += perf_counter() - started


async def _finish(coroutine: Coroutine[Any, Any, Any], pending: Any, seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await _resume(coroutine, pending)
    except TimeoutError as error:
        if limit.expired():
            raise HookTimeout(f"no answer within {seconds:g} s") from error
        raise


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, Any], pending: Any) -> Generator[Any, Any, Any]:
    """Drive a coroutine on after its first step, which left it waiting for `pending`."""
    while True:
        try:
            value = yield pending
        except BaseException as error:  # noqa: BLE001 - a cancellation, on its way in
            step: Callable[[], Any] = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, value)
        try:
            pending = step()
        except StopIteration as stop:
            return stop.value
