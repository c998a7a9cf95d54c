"""Typed values of retention, and the rule for what holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from clavitor_fleet.environments.models import RETENTION_LIMITS
from clavitor_fleet.telemetry.store import Retention, RetentionDays

COLUMNS: Final[Mapping[str, str]] = {kind: f"{kind}_retention_days" for kind in RetentionDays._fields}
"""The column of `environments` by kind of retention."""
LIMITS: Final[Mapping[str, str]] = {kind: RETENTION_LIMITS[column] for kind, column in COLUMNS.items()}
"""The limit by kind of retention."""


class Policy(NamedTuple):
    """What is to hold: `configured` by environment, and the `caps`; None where there is none."""

    configured: Mapping[str, RetentionDays]
    caps: Mapping[str, int | None]

    @property
    def effective(self) -> Retention:
        """The days in force by environment: the lesser of cap and configured (seed section 4.2)."""
        return {environment: self._within(days) for environment, days in self.configured.items()}

    def _within(self, days: RetentionDays) -> RetentionDays:
        return RetentionDays(
            **{kind: _least(value, self.caps[kind]) for kind, value in days._asdict().items()}
        ).clamped()


def _least(configured: int, cap: int | None) -> int:
    return configured if cap is None else min(cap, configured)
