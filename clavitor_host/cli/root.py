"""The command tree: ours, each in a module that is loaded when it is needed, then those of the plugins."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
import typer.core
import typer.main

from clavitor_host import __version__
from clavitor_host.cli.flags import accept_global_flags, with_global_flags
from clavitor_host.cli.invocation import Invocation
from clavitor_host.errors import ClavitorError, PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {
    "serve": "serve",
    "user": "user",
    "token": "token",
    "entry": "entry",
    "status": "status",
    "doctor": "doctor",
    "audit": "audit",
    "backup": "backup",
    "restore": "restore",
    "config": "config",
    "plugins": "plugins",
    "bundle": "bundle",
}
"""Our commands in the order of the help page, each with its module in this package."""

HELP = "Clavitor: a self-hosted vault server. Clients encrypt, it keeps."


class CommandTree(typer.core.TyperGroup):
    """Loads a command when it is named, and the plugins only when no command of ours is meant."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, the plugins' last."""
        try:
            return [*COMMANDS, *self._plugin_commands(ctx)]
        except ClavitorError as error:  # the help page of a broken build still helps
            print(f"error: {error}", file=sys.stderr)
            return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name, None when there is none. Raises PluginError."""
        if cmd_name in COMMANDS:
            return _built(import_module(f"clavitor_host.cli.{COMMANDS[cmd_name]}").app, cmd_name)
        plugins = self._plugin_commands(ctx)
        self.commands = cast(Any, dict.fromkeys([*COMMANDS, *plugins]))  # where the nearest right name is looked for
        return _built(plugins[cmd_name], cmd_name) if cmd_name in plugins else None

    def _plugin_commands(self, ctx: Any) -> dict[str, typer.Typer]:
        call = ctx.obj if isinstance(ctx.obj, Invocation) else Invocation({}, json=False)
        return dict(plugin_commands(call))


def plugin_commands(call: Invocation) -> Iterator[tuple[str, typer.Typer]]:
    """Yield the plugins' commands by name. Raises PluginError naming the plugin, or both of a clash."""
    owners = dict.fromkeys(COMMANDS, "the host")
    for implementation in call.registry.live["commands"]:
        plugin = implementation.record.name
        try:
            apps = list(implementation.function())
        except Exception as error:
            raise PluginError(f"plugin {plugin}: commands failed: {type(error).__name__}: {error}") from error
        for app in apps:
            name = _name_of(app)
            if name in owners:
                raise PluginError(f"plugin {plugin}: the command {name} belongs to {owners[name]} already")
            owners[name] = plugin
            yield name, app


def root_command() -> Any:
    """Return the whole `clavitor` command."""
    app = typer.Typer(cls=CommandTree, name="clavitor", help=HELP, no_args_is_help=True)
    app.callback()(with_global_flags(_root))
    return typer.main.get_command(app)


def _show_version(value: bool) -> None:
    if value:
        print(f"clavitor {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the flags that stand before the command."""


def _built(app: typer.Typer, name: str) -> Any:
    accept_global_flags(app)
    app._add_completion = False
    command = typer.main.get_command(app)
    command.name = name
    return command


def _name_of(app: typer.Typer) -> str:
    name = app.info.name
    if isinstance(name, str):
        return name
    return cast(str, typer.main.get_command(app).name)
