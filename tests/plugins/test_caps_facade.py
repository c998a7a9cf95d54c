"""`host.cap_values`: what is configured of the limits on a value, told by plugins (licensing.md section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from clavitor_host.hookspecs import hookimpl
from clavitor_host.host import Host
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.models import Plugin
from clavitor_host.plugins.registry import PluginRegistry

Register = Callable[..., PluginRegistry]


def telling(called: str, values: Mapping[str, Mapping[str, int]] | None) -> type[Plugin]:
    async def cap_values(self: Any, tx: Any) -> Mapping[str, Mapping[str, int]]:
        assert tx == "tx"
        if values is None:
            raise RuntimeError("cannot tell")
        return values

    return type(called.title(), (Plugin,), {"name": called, "version": "1", "cap_values": hookimpl(cap_values)})


async def values_of(registry: PluginRegistry) -> dict[str, dict[str, int]]:
    nobody: Any = None
    host = Host(authenticate=nobody, authorize=nobody, note_refused=nobody, status=nobody)
    host.hooks = Hooks(registry)
    tx: Any = "tx"
    return await host.cap_values(tx)


async def test_what_plugins_have_configured_comes_together_by_limit(register: Register) -> None:
    days, count = "max_log_retention_days", "max_jar_retention_count"
    one = telling("one", {days: {"prod": 30, "test": 1}})
    two = telling("two", {days: {"edge": 7}, count: {"prod": 3}})
    found = await values_of(register(one, two))
    assert found == {days: {"prod": 30, "test": 1, "edge": 7}, count: {"prod": 3}}
    assert await values_of(register()) == {}


async def test_a_plugin_that_cannot_tell_is_not_left_out_in_silence(register: Register) -> None:
    with pytest.raises(RuntimeError, match="cannot tell"):
        await values_of(register(telling("one", {}), telling("two", None)))
