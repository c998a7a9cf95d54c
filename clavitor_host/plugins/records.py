"""What the host knows of each plugin while it runs: its state, its hooks, its errors, the time it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from clavitor_host.plugins.models import Plugin

State = Literal["loaded", "configured", "active", "quarantined"]
STATES: tuple[State, ...] = ("loaded", "configured", "active", "quarantined")


@dataclass(slots=True)
class HookStats:
    """One plugin's use of one hook. `position`: 1 is called first. `seconds`: spent in it, waiting included."""

    position: int = 0
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class PluginRecord:
    """One plugin of the bundle. `index` is its place in load order, `config` its filled model.

    `configured`: whether its table or one of its variables was given at all.
    """

    index: int
    name: str
    distribution: str
    version: str
    clavitor_api: str
    optional: bool = False
    state: State = "loaded"
    plugin: Plugin | None = None
    config: Any = None
    configured: bool = False
    last_error: str | None = None
    stats: dict[str, HookStats] = field(default_factory=dict)

    @property
    def quarantined(self) -> bool:
        """Whether it failed and the rest runs without it."""
        return self.state == "quarantined"

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks it implements, in the order of the contract."""
        return tuple(self.stats)

    @property
    def calls(self) -> int:
        """How often its hooks were called."""
        return sum(stats.calls for stats in self.stats.values())

    @property
    def time_spent(self) -> float:
        """Seconds spent in its hooks, waiting included."""
        return sum(stats.seconds for stats in self.stats.values())

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, as `clavitor plugins --json` and `GET /api/v1/admin/plugins` show it."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "state": self.state,
            "optional": self.optional,
            "clavitor_api": self.clavitor_api,
            "hooks": [
                {
                    "name": name,
                    "position": stats.position,
                    "calls": stats.calls,
                    "errors": stats.errors,
                    "seconds": round(stats.seconds, 6),
                }
                for name, stats in self.stats.items()
            ],
            "calls": self.calls,
            "time_spent": round(self.time_spent, 6),
            "last_error": self.last_error,
        }


@dataclass(slots=True, eq=False)
class Implementation:
    """One plugin's function for one hook, with the arguments it asked for. `timeout` in seconds."""

    hook: str
    record: PluginRecord
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    timeout: float
    stats: HookStats


def describe_error(error: BaseException) -> str:
    """Return the type and message of an error in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
