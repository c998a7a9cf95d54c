"""`clavitor.toml` as a source: its values, and where each one stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clavitor_host.config import toml_file
from clavitor_host.config.fields import Key, KeyPath, nearest, tables_of
from clavitor_host.config.given import Given
from clavitor_host.config.models import HostConfig
from clavitor_host.errors import ConfigError


class FileSource:
    """One walk through the tables of a configuration file, refusing what no model knows.

    `tables`: the tables that were met, with their place.
    """

    def __init__(self, file: Path, keys: Mapping[KeyPath, Key], plugin_models: Mapping[str, type[BaseModel]]) -> None:
        self._values, self._text = toml_file.read(file)
        self._file = file
        self._keys = keys
        self._tables = {("plugins",), *(path for path, _ in tables_of(HostConfig))}
        for name, model in plugin_models.items():
            self._tables.update(path for path, _ in tables_of(model, ("plugins", name)))
        self.tables: dict[KeyPath, str] = {}

    def values(self) -> Iterator[tuple[KeyPath, Given]]:
        """Yield each key with its value. Raises ConfigError for an unknown key."""
        yield from self._walk(self._values, ())

    def _walk(self, table: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Given]]:
        for name, value in table.items():
            here = (*path, name)
            if here in self._tables:
                if not isinstance(value, dict):
                    raise ConfigError(f"{'.'.join(here)}: expected a table ({self._place(here)})")
                self.tables[here] = self._place(here)
                yield from self._walk(value, here)
            elif here in self._keys:
                yield here, self._given(here, value)
            else:
                yield self._unlisted(here, value, table)

    def _unlisted(self, path: KeyPath, value: Any, table: Mapping[str, Any]) -> tuple[KeyPath, Given]:
        target = (*path[:-1], path[-1].removesuffix("_file"))
        key = self._keys.get(target)
        if target != path and key is not None and key.file:
            if target[-1] in table:
                raise ConfigError(f"{'.'.join(path)}: give it or {target[-1]}, not both ({self._place(path)})")
            return target, self._given(path, value, of_file=True)
        raise self._unknown(path)

    def _given(self, path: KeyPath, value: Any, *, of_file: bool = False) -> Given:
        return Given(value, self._place(path), self._file.parent, of_file)

    def _unknown(self, path: KeyPath) -> ConfigError:
        table, word = path[:-1], path[-1]
        known = {*self._tables, *self._keys}
        known |= {(*key.path[:-1], f"{key.path[-1]}_file") for key in self._keys.values() if key.file}
        prefix = "".join(f"{name}." for name in table)
        hint = nearest(word, [other[-1] for other in known if other and other[:-1] == table], prefix)
        if not hint:
            elsewhere = sorted(".".join(other) for other in known if other and other[-1] == word)
            hint = f"; did you mean {elsewhere[0]}?" if elsewhere else ""
        what = "this build has no such plugin to configure" if table == ("plugins",) else "no such key"
        return ConfigError(f"{'.'.join(path)}: {what} ({self._place(path)}){hint}")

    def _place(self, path: KeyPath) -> str:
        line = toml_file.line_of(self._text, path)
        return f"{self._file}:{line}" if line else str(self._file)
