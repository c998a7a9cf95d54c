"""The configuration in force, with secrets masked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from clavitor_host.config.fields import Key, keys_of
from clavitor_host.config.models import HostConfig
from clavitor_host.config.sources import Config
from clavitor_host.config.values import ShownAs

MASK = "********"


def show(config: Config, plugin_models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return every key in force as JSON values, tables nested as in the file. Secrets are masked.

    Raises ConfigError when a plugin's model refuses its table.
    """
    shown = _table(config.host, list(keys_of(HostConfig)), 0)
    plugins: dict[str, Any] = {}
    for name, model in plugin_models.items():
        try:
            values = model.model_validate(config.plugin_tables.get(name, {}))
        except ValidationError as error:
            raise config.plugin_error(name, error) from None
        plugins[name] = _table(values, list(keys_of(model, ("plugins", name))), 2)
    return {**shown, "plugins": plugins} if plugins else shown


def as_toml(config: Config, shown: Mapping[str, Any]) -> str:
    """Return what `show` gave as TOML text, with where each key was set as a comment."""
    lines: list[str] = []
    _write(lines, shown, (), config.origins)
    return "\n".join(lines) + "\n"


def _table(model: BaseModel, keys: list[Key], depth: int) -> dict[str, Any]:
    root: dict[str, Any] = {}
    values = model.model_dump(by_alias=True)
    for key in keys:
        value: Any = values
        table = root
        for name in key.path[depth:-1]:
            value = (value or {}).get(name)
            table = table.setdefault(name, {})
        table[key.path[-1]] = None if value is None else _shown(key, value[key.path[-1]])
    return root


def _shown(key: Key, value: Any) -> Any:
    if isinstance(value, SecretStr):
        mark = next((mark for mark in key.info.metadata if isinstance(mark, ShownAs)), None)
        return mark.mask(value.get_secret_value()) if mark else MASK
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(key, item) for item in value]
    if isinstance(value, dict):
        return {str(name): _shown(key, item) for name, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _write(lines: list[str], table: Mapping[str, Any], path: tuple[str, ...], origins: Mapping[str, str]) -> None:
    for name, value in table.items():
        if isinstance(value, dict):
            continue
        origin = origins.get(".".join((*path, name)), "default")
        text = f"# {name} is not set" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
        lines.append(text if value is None else f"{text}  # {origin}")
    for name, value in table.items():
        if isinstance(value, dict):
            if any(not isinstance(item, dict) for item in value.values()):
                lines.extend(["", f"[{'.'.join((*path, name))}]"])
            _write(lines, value, (*path, name), origins)
