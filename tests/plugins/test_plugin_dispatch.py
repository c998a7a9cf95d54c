"""The kinds of hook, and what an error in one plugin does to the caller and the others (hookspecs.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import StringIO
from time import perf_counter
from typing import Any

import pytest

from clavitor_host.errors import PluginError, Problem, StorageUnavailable, problem
from clavitor_host.hookspecs import hookimpl
from clavitor_host.metrics import Metrics
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.models import Plugin
from clavitor_host.plugins.registry import PluginRegistry

Register = Callable[..., PluginRegistry]


def plugin(called: str, hook: str, function: Callable[..., Any]) -> type[Plugin]:
    return type(called.title(), (Plugin,), {"name": called, "version": "1", hook: hookimpl(function)})


async def fails(self: Any) -> Any:
    raise RuntimeError("broken cable")


async def hangs(self: Any) -> None:
    await asyncio.Event().wait()


def hasty(registry: PluginRegistry, hook: str) -> Hooks:
    """Return hooks whose time-out for one hook is 20 ms."""
    for implementation in registry.live[hook]:
        implementation.timeout = 0.02
    return Hooks(registry)


async def test_a_broadcast_reaches_every_plugin_whatever_the_others_do(register: Register, logged: StringIO) -> None:
    heard: list[Any] = []

    async def hears(self: Any, change: Any) -> None:
        await asyncio.sleep(0)
        heard.append(change)

    registry = register(
        plugin("a", "entry_changed", hears),
        plugin("b", "entry_changed", fails),
        plugin("c", "entry_changed", hangs),
        plugin("d", "entry_changed", hears),
    )
    await hasty(registry, "entry_changed").broadcast("entry_changed", host=None, change="x")
    assert heard == ["x", "x"]
    b, c = registry.get("b"), registry.get("c")
    assert b and c
    assert b.last_error == "entry_changed: RuntimeError: broken cable"
    assert c.last_error == "entry_changed: HookTimeout: no answer within 0.02 s"
    assert "plugin=b hook=entry_changed" in logged.getvalue()


async def test_errors_are_counted_in_a_metric(register: Register) -> None:
    metrics = Metrics()
    hooks = Hooks(register(plugin("a", "entry_changed", fails)), metrics)
    await hooks.broadcast("entry_changed", host=None, change=None)
    await hooks.broadcast("entry_changed", host=None, change=None)
    text = (await metrics.render()).decode()
    assert 'clavitor_plugin_errors_total{hook="entry_changed",plugin="a"} 2.0' in text


async def test_a_cancelled_caller_is_cancelled(register: Register) -> None:
    hooks = Hooks(register(plugin("a", "entry_changed", hangs)))
    task = asyncio.create_task(hooks.broadcast("entry_changed", host=None, change=None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_plugin_that_lets_a_cancellation_out_does_not_cancel_its_caller(register: Register) -> None:
    async def awaits_cancelled(self: Any) -> None:
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    registry = register(plugin("a", "entry_changed", awaits_cancelled))
    await Hooks(registry).broadcast("entry_changed", host=None, change=None)
    record = registry.get("a")
    assert record is not None
    assert record.last_error == "entry_changed: HookCancelled: it was cancelled from inside"


async def test_exit_requests_are_not_swallowed(register: Register) -> None:
    async def exits(self: Any) -> None:
        raise SystemExit(3)

    hooks = Hooks(register(plugin("a", "entry_changed", exits)))
    with pytest.raises(SystemExit):
        await hooks.broadcast("entry_changed", host=None, change=None)


async def test_a_plugins_own_timeouts_and_task_groups_work_in_a_hook(register: Register) -> None:
    async def busy(self: Any) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out inside"
        return "never"

    hooks = Hooks(register(plugin("a", "deployment_runtime", busy)))
    assert await hooks.first_async("deployment_runtime", host=None, deployment=None) == "timed out inside"


async def test_first_answer_skips_none_and_errors(register: Register) -> None:
    async def five(self: Any) -> int:
        return 5

    async def none(self: Any) -> None: ...

    registry = register(
        plugin("a", "effective_cap", five),
        plugin("b", "effective_cap", none),
        plugin("c", "effective_cap", fails),
        plugin("d", "effective_cap", hangs),
    )
    hooks = hasty(registry, "effective_cap")
    assert await hooks.first_async("effective_cap", host=None, limit="max_users") == 5
    for name in ("c", "d"):
        record = registry.get(name)
        assert record is not None
        assert record.last_error


async def test_first_answer_stops_at_the_first(register: Register) -> None:
    async def zero(self: Any) -> int:
        return 0

    hooks = Hooks(register(plugin("a", "effective_cap", fails), plugin("b", "effective_cap", zero)))
    assert await hooks.first_async("effective_cap", host=None, limit="x") == 0


def test_sync_first_answer_and_combined_answers(register: Register) -> None:
    def yes(self: Any) -> bool:
        return True

    def no(self: Any) -> bool:
        return False

    def breaks(self: Any) -> bool:
        raise ValueError

    registry = register(
        plugin("a", "is_telemetry_enabled", yes),
        plugin("b", "is_telemetry_enabled", no),
        plugin("c", "is_telemetry_enabled", breaks),
    )
    hooks = Hooks(registry)
    assert hooks.first("is_telemetry_enabled", host=None) is False
    answers = hooks.answers("is_telemetry_enabled", host=None)
    assert [(record.name, value) for record, value in answers] == [("b", False), ("a", True)]


async def test_an_error_while_authenticating_is_a_refusal(register: Register) -> None:
    async def knows(self: Any) -> str:
        return "somebody"

    async def forbids(self: Any) -> None:
        raise problem(403, "no", "no")

    async def away(self: Any) -> None:
        raise StorageUnavailable("The database is away.")

    for function, status in ((fails, 401), (forbids, 401), (away, 503)):
        hooks = Hooks(register(plugin("a", "authenticate", knows), plugin("b", "authenticate", function)))
        with pytest.raises(Problem) as refused:
            await hooks.first_async("authenticate", host=None, request=None)
        assert refused.value.status == status
    hooks = hasty(register(plugin("a", "authenticate", knows), plugin("b", "authenticate", hangs)), "authenticate")
    with pytest.raises(Problem, match="valid bearer token"):
        await hooks.first_async("authenticate", host=None, request=None)


async def test_a_policy_refuses_on_any_error(register: Register) -> None:
    async def allows(self: Any) -> None: ...

    async def refuses(self: Any) -> None:
        raise problem(409, "read_only", "This server is a backup.")

    async def ask(*classes: type[Plugin]) -> None:
        hooks = hasty(register(*classes), "authorize")
        await hooks.policy("authorize", host=None, identity=None, action="x", resource=None)

    allowed = plugin("a", "authorize", allows)
    await ask(allowed)
    with pytest.raises(Problem) as own:
        await ask(allowed, plugin("b", "authorize", refuses))
    assert (own.value.status, own.value.code) == (409, "read_only")
    for broken in (fails, hangs):
        with pytest.raises(Problem) as refused:
            await ask(allowed, plugin("b", "authorize", broken))
        assert (refused.value.status, refused.value.code) == (403, "forbidden")
        assert "broken cable" not in refused.value.detail


async def test_an_error_in_a_transaction_reaches_the_write(register: Register) -> None:
    async def vetoes(self: Any, tx: Any) -> None:
        raise problem(409, "veto", "Not now.")

    for function, expected in ((fails, RuntimeError), (vetoes, Problem)):
        hooks = Hooks(register(plugin("a", "entry_changing", function)))
        with pytest.raises(expected):
            await hooks.in_transaction("entry_changing", host=None, tx=None, change=None)


def test_a_contribution_that_fails_stops_a_required_plugin_and_quarantines_an_optional_one(
    register: Register,
) -> None:
    def breaks(self: Any) -> Any:
        raise ValueError("bad page")

    def pages(self: Any) -> list[str]:
        return ["page"]

    broken = plugin("a", "admin_pages", breaks)
    with pytest.raises(PluginError, match="plugin a: admin_pages failed: ValueError: bad page"):
        Hooks(register(broken)).contributions("admin_pages", host=None)
    registry = register(broken, plugin("b", "admin_pages", pages), optional=(broken,))
    found = Hooks(registry).contributions("admin_pages", host=None)
    assert [(record.name, value) for record, value in found] == [("b", ["page"])]
    record = registry.get("a")
    assert record is not None
    assert record.quarantined


async def test_a_contribution_per_call_leaves_a_failing_plugin_out_but_aborts_a_transaction(
    register: Register,
) -> None:
    async def reports(self: Any) -> dict[str, int]:
        return {"n": 1}

    hooks = Hooks(register(plugin("a", "status_report", reports), plugin("b", "status_report", fails)))
    found = await hooks.contributions_async("status_report", host=None)
    assert [(record.name, value) for record, value in found] == [("a", {"n": 1})]
    hooks = Hooks(register(plugin("a", "cap_usage", reports), plugin("b", "cap_usage", fails)))
    with pytest.raises(RuntimeError):
        await hooks.contributions_async("cap_usage", host=None, tx=None)


async def test_an_implementation_gets_only_the_arguments_it_names_in_its_own_order(register: Register) -> None:
    got: list[Any] = []

    async def authorize(self: Any, resource: Any, action: str) -> None:
        got.append((resource, action))

    hooks = Hooks(register(plugin("a", "authorize", authorize)))
    await hooks.policy("authorize", host="h", identity="i", action="act", resource="res")
    assert got == [("res", "act")]


async def test_a_quarantined_plugin_is_not_called(register: Register) -> None:
    cls = plugin("a", "authorize", fails)
    registry = register(cls, optional=(cls,))
    hooks = Hooks(registry)
    assert hooks.has("authorize")
    record = registry.get("a")
    assert record is not None
    registry.quarantine(record, "gone")
    assert not hooks.has("authorize")
    await hooks.policy("authorize", host=None, identity=None, action="x", resource=None)


def test_single_calls_the_owner(register: Register) -> None:
    assert Hooks(register()).single("edition_name") == "community"


async def test_time_and_calls_are_accounted(register: Register) -> None:
    async def naps(self: Any) -> None:
        await asyncio.sleep(0.02)

    registry = register(plugin("a", "entry_changed", naps), plugin("b", "entry_changed", fails))
    await Hooks(registry).broadcast("entry_changed", host=None, change=None)
    a, b = registry.get("a"), registry.get("b")
    assert a and b
    assert a.calls == b.calls == 1
    assert 0.015 < a.time_spent < 1 > b.time_spent
    assert b.as_dict()["hooks"][0]["errors"] == 1


async def test_a_call_costs_a_few_microseconds(register: Register) -> None:
    async def allows(self: Any, action: str) -> None: ...

    hooks = Hooks(register(plugin("a", "authorize", allows)))

    async def cost(calls: int) -> float:
        started = perf_counter()
        for _ in range(calls):
            await hooks.policy("authorize", host=None, identity=None, action="x", resource=None)
        return (perf_counter() - started) / calls

    floor = min([await cost(2000) for _ in range(10)])
    assert floor < 20e-6  # about 2 µs on an idle machine
