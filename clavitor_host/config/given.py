"""A value as a source gave it, and what it amounts to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from clavitor_host.config.environment import from_text
from clavitor_host.config.fields import Key, file_names, path_prefix
from clavitor_host.errors import ConfigError


class Given(NamedTuple):
    """One value of one source.

    `origin`: the place or variable or flag, for messages. `base`: the folder that relative file names count
    from. `of_file`: the value names a file that holds the secret. `text`: it came as text, from a variable or flag.
    """

    value: Any
    origin: str
    base: Path
    of_file: bool = False
    text: bool = False

    def resolve(self, key: Key) -> Any:
        """Return the value for `key`, file names made absolute.

        Raises ConfigError when a secret's file cannot be read.
        """
        if self.of_file:
            return self._secret(key)
        value = self.value
        if self.text and isinstance(value, str):
            try:
                value = from_text(key, value)
            except ValueError as error:
                raise ConfigError(f"{key.dotted}: {error} ({self.origin})") from None
        named = file_names(key)
        if named is not None and isinstance(value, str):
            return named.resolve(value, self.base)
        prefix = path_prefix(key)
        if prefix is not None and isinstance(value, str) and value.startswith(prefix) and value != prefix:
            return f"{prefix}{self.base / Path(value.removeprefix(prefix)).expanduser()}"
        return value

    def _secret(self, key: Key) -> str:
        if not isinstance(self.value, str):
            raise ConfigError(f"{key.dotted}_file: expected the name of a file ({self.origin})")
        file = self.base / Path(self.value).expanduser()
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"{key.dotted}_file: {file} cannot be read: {error.strerror} ({self.origin})") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{key.dotted}_file: {file} is not UTF-8 text ({self.origin})") from None
