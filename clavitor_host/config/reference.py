"""The reference page of every configuration key, generated from the models."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from clavitor_host.config.fields import Key, keys_of, tables_of
from clavitor_host.config.models import HostConfig
from clavitor_host.config.sources import FLAGS

PAGE = "docs/reference/configuration.md"

_INTRODUCTION = """\
# Configuration

This page is generated: `clavitor config reference > docs/reference/configuration.md`.

Values come from three sources; a later one wins over an earlier one, key by key:

1. `clavitor.toml` in the current folder, or the file that `--config` or `CLAVITOR_CONFIG` names;
2. `CLAVITOR_*` environment variables; an empty one counts as not set;
3. flags: `--data-dir`, `--bind`, `--workers`, after any subcommand.

A key of a table has the variable `CLAVITOR_<TABLE>_<KEY>`: `cert` in `[tls]` is `CLAVITOR_TLS_CERT`. In a variable, a
list is written with commas. A secret can be kept in a file of its own, whose name is given as `<key>_file` or
`<VARIABLE>_FILE`. Relative file names count from the configuration file's folder; in variables and flags, from the
current folder. An unknown key, and a `CLAVITOR_` variable that nothing reads, is an error that suggests the right one.

`clavitor config check` checks the configuration; `clavitor config show` prints what is in force and where each value
comes from, secrets masked.
"""


def render(plugin_models: Mapping[str, type[BaseModel]]) -> str:
    """Return the reference page as Markdown: the host's keys, then those of the given plugins' tables."""
    parts = [_INTRODUCTION]
    for path, model in tables_of(HostConfig):
        parts.append(_section(path, model))
    for name, plugin in plugin_models.items():
        for path, model in tables_of(plugin, ("plugins", name)):
            parts.append(_section(path, model))
    return "\n".join(part for part in parts if part)


def drift(file: Path, plugin_models: Mapping[str, type[BaseModel]]) -> str:
    """Return how `file` differs from the page as it should be, as a unified diff; "" when it is right."""
    now = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    wanted = render(plugin_models).splitlines(keepends=True)
    return "".join(difflib.unified_diff(now, wanted, str(file), "generated"))


def _section(path: tuple[str, ...], model: type[BaseModel]) -> str:
    keys = [key for key in keys_of(model, path) if key.path[:-1] == path]
    if not keys:
        return ""
    title = f"`[{'.'.join(path)}]`" if path else "Top of the file"
    purpose = " ".join((model.__doc__ or "").split())
    lines = [f"## {title}", "", purpose, "", "| key | type | default | variable | meaning |", "|---|---|---|---|---|"]
    lines.extend(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(key))} |" for key in keys)
    return "\n".join(lines) + "\n"


def _cells(key: Key) -> tuple[str, ...]:
    names = "<br>".join(f"`{name}`" for name in key.env)
    if key.dotted in FLAGS:
        names += f"<br>`{key.flag}`"
    word = f"`{key.path[-1]}`" + (f"<br>`{key.path[-1]}_file`" if key.file else "")
    return word, type_text(key), _default(key), names, " ".join((key.info.description or "").split())


def _default(key: Key) -> str:
    default = key.info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "must be given"
    if default is None:
        return "not set"
    return f"`{json.dumps(str(default) if isinstance(default, Path) else default, ensure_ascii=False, default=str)}`"


def type_text(key: Key) -> str:
    """Return a key's type in a few words, with its bounds."""
    bounds = {
        name: getattr(mark, name)
        for mark in key.info.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(mark, name)
    }
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    above = "above " if "gt" in bounds else ""
    span = f", {above}{low} to {high}" if low is not None and high is not None else ""
    return _type(key.annotation) + span


def _type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(word)}`" for word in typing.get_args(annotation))
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type(typing.get_args(annotation)[0])}"
    if origin is dict:
        return "table"
    names = {int: "integer", float: "number", bool: "`true` or `false`", Path: "file name", SecretStr: "secret text"}
    return names.get(annotation, "text")
