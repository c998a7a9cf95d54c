"""`CLAVITOR_*` variables: which key each one sets."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from clavitor_host.config.fields import Key, env_name, nearest
from clavitor_host.errors import ConfigError

PREFIX = "CLAVITOR_"
CONFIG_FILE = "CLAVITOR_CONFIG"
"""Names the configuration file; not a key of it."""
IGNORED = ("CLAVITOR_TEST_", "CLAVITOR_INTERNAL_")
"""Variables of the test suite, and of the server's own processes."""


class Variables:
    """The variables that exist in this build: the host's, and those of the plugins it has."""

    def __init__(self, host_keys: Iterable[Key], plugin_keys: Mapping[str, Iterable[Key]]) -> None:
        self._exact: dict[str, tuple[Key, bool]] = {}
        self._owner: dict[str, str] = {}
        self._prefixes = sorted(((env_name(("plugins", name)) + "_", name) for name in plugin_keys), key=_longest_first)
        for name, keys in plugin_keys.items():
            for key in keys:
                self._add(key, name)
        for key in host_keys:
            self._add(key, "")  # last: the host's own names win

    def _add(self, key: Key, owner: str) -> None:
        for position, name in enumerate(key.env):
            if position == 0 and owner and self._plugin_of(name) != owner:
                continue  # CLAVITOR_<A>_<B>_KEY belongs to plugin a_b, not to key b_key of plugin a
            self._put(name, key, owner, of_file=False)
            if key.file:
                self._put(f"{name}_FILE", key, owner, of_file=True)

    def _put(self, name: str, key: Key, owner: str, *, of_file: bool) -> None:
        taken = self._owner.get(name)
        if taken and owner and taken != owner:
            raise ConfigError(f"{name}: the plugins {taken} and {owner} both declare this variable.")
        self._owner[name] = owner
        self._exact[name] = (key, of_file)

    def _plugin_of(self, variable: str) -> str | None:
        return next((name for prefix, name in self._prefixes if variable.startswith(prefix)), None)

    def find(self, variable: str) -> tuple[Key, bool] | None:
        """Return the key a variable sets, and whether it names a file with the value.

        None for variables that are not ours. Raises ConfigError for a misspelt one.
        """
        if not variable.startswith(PREFIX) or variable == CONFIG_FILE or variable.startswith(IGNORED):
            return None
        if variable in self._exact:
            return self._exact[variable]
        word = variable.removeprefix(PREFIX)
        plugin = self._plugin_of(variable)
        own = [name.removeprefix(PREFIX) for name, owner in self._owner.items() if owner == plugin]
        every = [name.removeprefix(PREFIX) for name in (*self._owner, CONFIG_FILE)]
        hint = nearest(word, own, PREFIX) or nearest(word, every, PREFIX)
        raise ConfigError(f"{variable}: no such variable{hint or '; `clavitor config reference` lists them'}")


def _longest_first(pair: tuple[str, str]) -> int:
    return -len(pair[0])


def from_text(key: Key, text: str) -> Any:
    """Return a variable's or flag's text as a value for `key`: lists are split at commas, or read as JSON.

    Raises ValueError for text that should be JSON and is not.
    """
    origin = typing.get_origin(key.annotation) or key.annotation
    if origin in (list, tuple, set, frozenset):
        if text.lstrip().startswith("["):
            return _json(text)
        return [part.strip() for part in text.split(",") if part.strip()]
    return _json(text) if origin is dict else text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected JSON: {error}") from None
