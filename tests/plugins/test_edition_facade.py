"""`host.edition`, the seed's Edition interface as hooks (editions.md section 1)."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from types import SimpleNamespace
from typing import Any

from clavitor_host.clock import SystemClock
from clavitor_host.hookspecs import hookimpl
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.edition import Edition
from clavitor_host.plugins.models import Alert, Plugin
from clavitor_host.plugins.registry import PluginRegistry

Register = Callable[..., PluginRegistry]


def facade(registry: PluginRegistry) -> Edition:
    host: Any = SimpleNamespace(hooks=Hooks(registry), clock=SystemClock())
    return Edition(registry.edition, host)


def plugin(called: str, hook: str, function: Any) -> type[Plugin]:
    return type(called.title(), (Plugin,), {"name": called, "version": "1", hook: hookimpl(function)})


async def test_an_alert_reaches_every_plugin_with_id_and_time(register: Register) -> None:
    heard: list[Alert] = []

    async def hears(self: Any, alert: Alert) -> None:
        heard.append(alert)

    edition = facade(register(plugin("a", "alert_operator", hears), plugin("b", "alert_operator", hears)))
    assert edition.name == "community"
    await edition.alert_operator("disk_full", "The disk is full.", {"free": 0})
    assert len(heard) == 2
    assert heard[0] == heard[1]
    alert = heard[0]
    assert (alert.type, alert.message, dict(alert.details)) == ("disk_full", "The disk is full.", {"free": 0})
    assert len(alert.id) == 32
    assert abs(alert.at - SystemClock().now_us()) < 10_000_000
    await edition.alert_operator("disk_full", "The disk is full.")
    assert heard[-1].id != alert.id


async def test_the_host_logs_an_alert_before_a_plugin_can_lose_it(register: Register, logged: StringIO) -> None:
    async def breaks(self: Any) -> None:
        assert "The disk is {full}." in logged.getvalue()
        raise RuntimeError("unplugged")

    edition = facade(register(plugin("a", "alert_operator", breaks)))
    await edition.alert_operator("disk_full", "The disk is {full}.")
    lines = logged.getvalue().splitlines()
    assert "Operator alert: The disk is {full}. alert_type=disk_full" in lines[0]
    assert "unplugged" in lines[1]


def test_telemetry_is_on_when_any_plugin_says_so(register: Register) -> None:
    def says(value: Any) -> type[Plugin]:
        return plugin(f"p{value}".lower(), "is_telemetry_enabled", lambda self: value)

    def breaks(self: Any) -> bool:
        raise RuntimeError

    assert not facade(register()).is_telemetry_enabled()
    assert not facade(register(says(False), says(None))).is_telemetry_enabled()
    assert facade(register(says(True), says(False))).is_telemetry_enabled()
    assert not facade(register(plugin("x", "is_telemetry_enabled", breaks))).is_telemetry_enabled()
