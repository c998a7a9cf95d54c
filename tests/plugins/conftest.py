"""A minimal edition plugin, and a way to freeze plugin classes into a registry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest

from clavitor_host import log
from clavitor_host.hookspecs import hookimpl
from clavitor_host.plugins.models import FrozenPlugin, Plugin
from clavitor_host.plugins.registry import PluginRegistry

Register = Callable[..., PluginRegistry]


class Edition(Plugin):
    name = "edition"
    version = "1.0"

    @hookimpl
    def edition_name(self) -> str:
        return "community"


@pytest.fixture
def register() -> Register:
    """Return `register(*classes, optional=(class, …))`: a registry of an edition plugin and these."""

    def make(*classes: type[Plugin], optional: tuple[type[Plugin], ...] = (), **options: Any) -> PluginRegistry:
        frozen = [FrozenPlugin(f"dist-{c.__name__.lower()}", c, c in optional) for c in (Edition, *classes)]
        return PluginRegistry(frozen, "community", **options)

    return make


@pytest.fixture
def logged() -> Iterator[StringIO]:
    """Collect the log as text."""
    sink = StringIO()
    log.setup("DEBUG", sink=sink)
    yield sink
    log.setup("INFO", sink=sys.__stderr__)
