"""Merging the sources: `clavitor.toml` < `CLAVITOR_*` variables < flags."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from clavitor_host.config.environment import CONFIG_FILE, Variables
from clavitor_host.config.fields import Key, KeyPath, keys_of
from clavitor_host.config.file_source import FileSource
from clavitor_host.config.given import Given
from clavitor_host.config.messages import one_line
from clavitor_host.config.models import HostConfig
from clavitor_host.errors import ConfigError

DEFAULT_FILE = "clavitor.toml"
FLAGS = ("data_dir", "bind", "workers")
"""Keys that every subcommand also takes as a flag (with `--config`, which is not a key)."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration.

    `plugin_tables`: the merged values of each plugin that was given any, still to be validated by its model.
    `origins`: where a key was set, by its dotted path. `file`: the configuration file that was read.
    """

    host: HostConfig
    plugin_tables: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)  # may hold secrets
    origins: dict[str, str] = field(default_factory=dict)
    file: Path | None = None

    def plugin_error(self, name: str, error: ValidationError) -> ConfigError:
        """Return the one-line error for a plugin's table that its model refuses."""
        return ConfigError(one_line(error, ("plugins", name), self.origins))


def load(
    flags: Mapping[str, Any],
    plugin_models: Mapping[str, type[BaseModel]],
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Config:
    """Read, merge and check the configuration.

    flags: dotted key to value, None for a flag not given; `config` names the file.
    plugin_models: the model of each plugin's table. environ, cwd: the process's own when not given.
    Relative file names count from the configuration file's folder, in variables and flags from `cwd`.
    Raises ConfigError: one line that names the key, where it was set, and the nearest right one.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    host_keys = list(keys_of(HostConfig))
    plugin_keys = {name: list(keys_of(model, ("plugins", name))) for name, model in plugin_models.items()}
    keys = {key.path: key for group in (host_keys, *plugin_keys.values()) for key in group}

    given: dict[KeyPath, Given] = {}
    tables: dict[KeyPath, str] = {}
    file = find_file(flags, environ, cwd)
    if file is not None:
        source = FileSource(file, keys, plugin_models)
        given.update(source.values())
        tables = source.tables
    given.update(_from_environment(environ, Variables(host_keys, plugin_keys), cwd))
    given.update(_from_flags(flags, keys, cwd))

    values = {
        "data_dir": cwd / "data",
        **_nested(tables, {path: g.resolve(keys[path]) for path, g in given.items()}),
    }
    origins = {".".join(path): origin for path, origin in tables.items()}
    origins |= {".".join(path): value.origin for path, value in given.items()}
    plugins = values.pop("plugins", {})
    try:
        host = HostConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line(error, (), origins)) from None
    return Config(host, plugins, origins, file)


def find_file(flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the configuration file: `--config`, `CLAVITOR_CONFIG`, or `clavitor.toml` in `cwd` when there is one."""
    for origin, name in (("--config", flags.get("config")), (CONFIG_FILE, environ.get(CONFIG_FILE))):
        if name:
            file = cwd / Path(str(name)).expanduser()
            if not file.is_file():
                raise ConfigError(f"{origin}: {file} is not a file.")
            return file
    default = cwd / DEFAULT_FILE
    return default if default.is_file() else None


def _from_environment(environ: Mapping[str, str], variables: Variables, cwd: Path) -> Iterator[tuple[KeyPath, Given]]:
    seen: dict[KeyPath, str] = {}
    for name, text in sorted(environ.items()):
        found = variables.find(name)
        if found is None or not text:
            continue  # an empty variable counts as not set
        key, of_file = found
        if key.path in seen:
            raise ConfigError(f"{name}: give it or {seen[key.path]}, not both.")
        seen[key.path] = name
        yield key.path, Given(text, name, cwd, of_file, text=True)


def _from_flags(flags: Mapping[str, Any], keys: Mapping[KeyPath, Key], cwd: Path) -> Iterator[tuple[KeyPath, Given]]:
    for dotted, value in flags.items():
        if value is None or dotted == "config":
            continue
        key = keys[tuple(dotted.split("."))]
        yield key.path, Given(value, key.flag, cwd, text=True)


def _nested(tables: Mapping[KeyPath, str], values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in (*tables, *values):
        table = root
        for name in path[:-1]:
            table = table.setdefault(name, {})
        if path in values:
            table[path[-1]] = values[path]
        else:
            table.setdefault(path[-1], {})
    return root
