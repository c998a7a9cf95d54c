"""What a plugin must be before its first hook is called. Every refusal is one sentence naming the cause."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from clavitor_host.hookspecs import PROJECT, Contract, contract_of
from clavitor_host.plugins.api_range import in_range
from clavitor_host.plugins.models import Plugin

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
HOST = "host"
"""The owner's name of what is the host's own; no plugin may take it."""

_PASSED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Refused(ValueError):
    """The plugin breaks the contract; the message says how."""


class Spec:
    """One hook of the contract: its arguments, in order, and what the host fixes about it."""

    __slots__ = ("arguments", "contract", "name")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.arguments = tuple(inspect.signature(function).parameters)
        self.contract: Contract = contract_of(function)


def read_specs(module: ModuleType) -> dict[str, Spec]:
    """Return the hook specs of the contract module, in its order."""
    return {
        name: Spec(name, value)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and "clavitor_contract" in value.__dict__
    }


def check_class(plugin: type[Plugin], api_version: str) -> None:
    """Refuse a plugin class whose name, version or API range cannot be used."""
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise Refused("`plugin` is not a subclass of clavitor_host.api.Plugin")
    name = getattr(plugin, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > 40 or name == HOST:
        raise Refused(f"name {name!r} is not a lower-case word such as 'audit_export' (and not {HOST!r})")
    if not isinstance(getattr(plugin, "version", None), str):
        raise Refused("it has no `version`")
    if not in_range(api_version, plugin.clavitor_api):
        raise Refused(
            f"it needs plugin API {plugin.clavitor_api}, this host has {api_version}: take a version made for it"
        )


def check_hooks(plugin: Plugin, specs: Mapping[str, Spec]) -> dict[str, tuple[str, ...]]:
    """Return `{hook: arguments asked for}` in the order of the contract, or refuse the plugin."""
    found: dict[str, tuple[str, ...]] = {}
    for attribute, function, options in _marked(plugin, specs):
        name = options.get("specname") or attribute
        spec = specs.get(name)
        if spec is None:
            raise Refused(f'there is no hook "{name}"{suggestion(name, specs)}')
        if options.get("wrapper") or options.get("hookwrapper"):
            raise Refused(f'hook "{name}": wrappers are not supported')
        if name in found:
            raise Refused(f'hook "{name}" is implemented twice')
        _check_colour(spec, function)
        found[name] = _check_arguments(spec, function)
    return {name: found[name] for name in specs if name in found}


def suggestion(name: str, known: Mapping[str, Any]) -> str:
    """Return '; did you mean "…"?' for the nearest known name, or nothing."""
    nearest = get_close_matches(name, known, n=1, cutoff=0.6)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def _marked(plugin: Plugin, specs: Mapping[str, Spec]) -> Iterator[tuple[str, Callable[..., Any], Mapping[str, Any]]]:
    for attribute in dir(type(plugin)):
        static = inspect.getattr_static(type(plugin), attribute)
        function = getattr(static, "__func__", static)
        options = getattr(function, f"{PROJECT}_impl", None) if inspect.isroutine(function) else None
        if isinstance(options, Mapping):
            yield attribute, getattr(plugin, attribute), options
        elif attribute in specs:
            raise Refused(f'"{attribute}" is the name of a hook but is not marked with @hookimpl')


def _check_colour(spec: Spec, function: Callable[..., Any]) -> None:
    is_async = inspect.iscoroutinefunction(function)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise Refused(f'hook "{spec.name}" is a generator; return the values instead of yielding them')
    if spec.contract.colour == "async" and not is_async:
        raise Refused(f'hook "{spec.name}" must be `async def`')
    if spec.contract.colour == "sync" and is_async:
        raise Refused(f'hook "{spec.name}" must be plain `def`, not `async def`')


def _check_arguments(spec: Spec, function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        where = f'hook "{spec.name}": argument "{parameter.name}"'
        if parameter.kind not in _PASSED:
            raise Refused(f"{where} would never be passed; name the arguments plainly, without * or **")
        if parameter.name not in spec.arguments:
            known = dict.fromkeys(spec.arguments)
            listed = ", ".join(spec.arguments) or "none"
            raise Refused(f"{where} does not exist{suggestion(parameter.name, known)} (arguments: {listed})")
        if parameter.default is not parameter.empty:
            raise Refused(f"{where} has a default; it is always passed, so drop the default")
    return tuple(parameters)
