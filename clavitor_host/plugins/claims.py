"""Names that only one owner may have: tables, jobs, pages, checks, routes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from clavitor_host.errors import PluginError

Key = TypeVar("Key", bound=Hashable)


class Claims(Generic[Key]):
    """Who owns what. Owners are plugin names, or "host"."""

    def __init__(self, what: str) -> None:
        """what: the kind of thing claimed, for the message."""
        self._what = what
        self._owners: dict[Key, str] = {}

    def claim(self, key: Key, owner: str, shown: str = "") -> None:
        """Give `key` to `owner`. Raises `PluginError` naming both owners when it is taken."""
        other = self._owners.setdefault(key, owner)
        if other is not owner:
            raise self._clash(shown or str(key), other, owner)

    def claim_once(self, key: Key, owner: str, shown: str = "") -> None:
        """Like `claim`, but the same owner may not claim it twice either."""
        if key in self._owners:
            raise self._clash(shown or str(key), self._owners[key], owner)
        self._owners[key] = owner

    def _clash(self, shown: str, other: str, owner: str) -> PluginError:
        if other == owner:
            return PluginError(f"{self._what} {shown} is given twice by {_named(owner)}")
        return PluginError(f"{self._what} {shown} is given by both {_named(other)} and {_named(owner)}")


def _named(owner: str) -> str:
    return "the host" if owner == "host" else f"plugin {owner}"
