"""The thirteen limits, the default tier, and the caps a license makes of them (seed sections 2.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

DEFAULT_TIER_LIMITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "max_environments": 1,
        "max_apps": 3,
        "max_agents": 5,
        "max_users": 3,
        "max_outbound_connections": 1,
        "max_alert_rules": 2,
        "max_total_cpu_millis": 2000,
        "max_total_memory_mb": 2048,
        "max_total_replicas": 5,
        "max_execution_retention_days": 1,
        "max_log_retention_days": 1,
        "max_metric_retention_days": 1,
        "max_jar_retention_count": 3,
    }
)
"""What holds without a license that counts; the keys are those of the token."""

LIMITS: Final[tuple[str, ...]] = tuple(DEFAULT_TIER_LIMITS)
"""Every limit there is, in the order in which they are shown."""

VALUE_LIMITS: Final = frozenset(LIMITS[-4:])
"""Limits on a value that is set, not on how many there are (seed section 4.1): retention."""

MAX_LIMIT: Final = 2**31 - 1
"""The highest number a limit takes."""


class LicenseLimits(NamedTuple):
    """What a license says, over the default tier: a license can lift any subset.

    explicit: the limits that stand in the license, by key; each key one of `LIMITS`.
    """

    explicit: Mapping[str, int] = MappingProxyType({})

    def cap(self, key: str) -> int:
        """Return the highest usage that is allowed. Raises `KeyError` for a key that is not in `LIMITS`."""
        default = DEFAULT_TIER_LIMITS[key]
        return self.explicit.get(key, default)

    def source(self, key: str) -> Literal["license", "default"]:
        """Return where the cap comes from."""
        return "license" if key in self.explicit else "default"


DEFAULT_TIER: Final = LicenseLimits()
"""The limits when no license counts."""
