"""What a plugin is, and the values it exchanges with the host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple


class Plugin:
    """Base of every plugin: the methods marked `@hookimpl` are its hooks.

    A plugin package names its subclass `plugin` in `<package>/plugin.py`. The host makes one instance per app,
    so state may live on `self`.
    """

    name: ClassVar[str]
    """Lower-case word: its configuration table is `[plugins.<name>]`, its variables `CLAVITOR_<NAME>_*`."""
    version: ClassVar[str]
    clavitor_api: ClassVar[str] = ">=1.0,<2"
    """The range of plugin contract versions it works with."""
    outbound_hosts: ClassVar[tuple[str, ...]] = ()
    """The hosts it contacts by default, for reviewers of a bundle."""


@dataclass(frozen=True, slots=True)
class FrozenPlugin:
    """One plugin of a bundle, as its manifest freezes it. `optional`: a failure quarantines it."""

    distribution: str
    plugin: type[Plugin]
    optional: bool = False


class Alert(NamedTuple):
    """Something an operator must look at. `type` is a stable word; `id` and `at` (µs) are set by the host."""

    type: str
    message: str
    details: Mapping[str, Any] = MappingProxyType({})
    id: str = ""
    at: int = 0


class AdminPage(NamedTuple):
    """One entry of the admin navigation. `path` starts with `/admin/`; `icon` is one character; `action` is
    what a visitor must be allowed to do to see it."""

    title: str
    path: str
    icon: str
    action: str = "plugins.read"


class HealthCheck(NamedTuple):
    """A named check: `check` returns None when all is well, or one sentence saying what is not.

    `critical`: its failure makes `/readyz` answer 503.
    """

    name: str
    check: Callable[[], Awaitable[str | None]]
    critical: bool = True


class CapsChange(NamedTuple):
    """Why caps may have changed: `reason` such as `installed`, `removed`, `state`; `state` is the new state."""

    reason: str
    state: str
    limits: Mapping[str, int] = MappingProxyType({})


class Deployment(NamedTuple):
    """What a runtime needs to know of a deployment. `cpu_millis` and `memory_mb` are per replica."""

    id: str
    app_id: str
    environment_id: str
    artifact_id: str
    replicas: int
    cpu_millis: int
    memory_mb: int
    desired: str
