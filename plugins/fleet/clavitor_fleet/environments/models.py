"""Typed values of environments."""

from __future__ import annotations

from typing import Final, NamedTuple

RETENTION_LIMITS: Final = {
    "execution_retention_days": "max_execution_retention_days",
    "log_retention_days": "max_log_retention_days",
    "metric_retention_days": "max_metric_retention_days",
    "jar_retention_count": "max_jar_retention_count",
}
"""The configured values of an environment, and the limit that caps each."""

USUAL_JARS: Final = 3
"""How many artifacts of an app are kept where nobody said: what holds without a license."""


class Environment(NamedTuple):
    """An environment. Times are µs since the epoch."""

    id: str
    name: str
    execution_retention_days: int
    log_retention_days: int
    metric_retention_days: int
    jar_retention_count: int
    created_at: int
    updated_at: int
