"""What one command line said for every command, and what follows from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from clavitor_host.config.sources import Config
    from clavitor_host.host import Host
    from clavitor_host.plugins.frozen import BundleInfo
    from clavitor_host.plugins.registry import PluginRegistry


class Invocation:
    """One run of `clavitor`. A command of ours takes it as a parameter; a plugin's finds it at `ctx.obj`.

    `flags`: configuration given on the command line, by key, None for what was not given. `json`: standard output
    is for a machine.
    """

    def __init__(self, flags: Mapping[str, Any], *, json: bool) -> None:
        self.flags = dict(flags)
        self.json = json

    @cached_property
    def bundle(self) -> BundleInfo:
        """What this program is made of."""
        from clavitor_host.plugins.frozen import frozen_set

        return frozen_set()

    @cached_property
    def registry(self) -> PluginRegistry:
        """The plugins, registered but neither configured nor started."""
        from clavitor_host.plugins.registry import PluginRegistry

        return PluginRegistry(self.bundle.plugins, self.bundle.edition)

    @cached_property
    def plugin_models(self) -> dict[str, type[BaseModel]]:
        """The configuration model of every plugin that has one."""
        from clavitor_host.plugins.configure import config_models

        return config_models(self.registry)

    @cached_property
    def config(self) -> Config:
        """The configuration: file, variables, flags. Raises ConfigError."""
        from clavitor_host.config.sources import load

        return load(self.flags, self.plugin_models)

    @asynccontextmanager
    async def offline(self, *, create: bool = False) -> AsyncIterator[Host]:
        """Give a host that works on the database without serving, beside a running server or without one.

        create: make the data folder and the database when they do not exist. Raises StartError.
        """
        from clavitor_host.cli.offline import offline

        async with offline(self.config, self.bundle, create=create) as app:
            yield app.host
