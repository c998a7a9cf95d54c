"""A minimal edition plugin, and a way to freeze plugin classes into a registry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from loguru import logger

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
        loaded: list[type[Plugin]] = [Edition, *classes]
        frozen = [FrozenPlugin(f"dist-{cls.__name__.lower()}", cls, cls in optional) for cls in loaded]
        return PluginRegistry(frozen, "community", **options)

    return make


@pytest.fixture
def logged() -> Iterator[StringIO]:
    """Collect the log as text."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    sink = StringIO()
    log.setup("INFO", sink=sink)
    yield sink
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()
