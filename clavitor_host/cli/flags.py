"""The flags that every command takes: `--data-dir`, `--bind`, `--workers`, `--config` and `--json`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from clavitor_host.cli.invocation import Invocation

_PANEL = "Flags of every command"

GLOBAL_FLAGS: dict[str, Any] = {
    "data_dir": Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="Data folder.", rich_help_panel=_PANEL)
    ],
    "bind": Annotated[
        str | None,
        typer.Option("--bind", metavar="ADDRESS", help="host:port or unix:PATH of the server.", rich_help_panel=_PANEL),
    ],
    "workers": Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Server processes.", rich_help_panel=_PANEL)
    ],
    "config": Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Configuration file.", rich_help_panel=_PANEL)
    ],
    "json": Annotated[
        bool, typer.Option("--json", help="Write JSON for a machine to standard output.", rich_help_panel=_PANEL)
    ],
}


def accept_global_flags(app: typer.Typer) -> None:
    """Make every command of `app`, and of the groups in it, take the global flags."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = with_global_flags(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            accept_global_flags(group.typer_instance)


def with_global_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that also takes the global flags.

    A parameter of type `Invocation` gets what they say; `ctx.obj` of a `typer.Context` does too. An `async def` is
    run to its end. A command with a flag of the same name keeps its own.
    """
    if hasattr(function, "clavitor_command"):
        return function
    parameters = inspect.signature(function, eval_str=True).parameters
    wants_call = [name for name, parameter in parameters.items() if parameter.annotation is Invocation]
    shown = [parameter for name, parameter in parameters.items() if name not in wants_call]
    added = {name: kind for name, kind in GLOBAL_FLAGS.items() if name not in parameters}
    context = next((parameter.name for parameter in shown if parameter.annotation is typer.Context), None)

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        ctx: typer.Context = values["_context"] if context is None else values[context]
        given = {name: values.pop(name) for name in added}
        values.pop("_context", None)
        ctx.obj = merged(ctx.obj, given)
        result = function(**values, **dict.fromkeys(wants_call, ctx.obj))
        return _finish(result) if inspect.iscoroutine(result) else result

    keyword = inspect.Parameter.KEYWORD_ONLY
    if context is None:
        shown.append(inspect.Parameter("_context", keyword, annotation=typer.Context))
    for name, kind in added.items():
        shown.append(inspect.Parameter(name, keyword, annotation=kind, default=False if name == "json" else None))
    shown.sort(key=lambda parameter: parameter.kind)
    command.__dict__["__signature__"] = inspect.Signature(shown)
    command.__dict__["clavitor_command"] = True
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return command


def merged(outer: Invocation | None, given: dict[str, Any]) -> Invocation:
    """Return what the flags of a command say, over those given before it."""
    flags = {name: value for name, value in given.items() if name != "json"}
    if outer is None:
        return Invocation(flags, json=bool(given.get("json")))
    flags = {**outer.flags, **{name: value for name, value in flags.items() if value is not None}}
    return Invocation(flags, json=outer.json or bool(given.get("json")))


def _finish(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)
