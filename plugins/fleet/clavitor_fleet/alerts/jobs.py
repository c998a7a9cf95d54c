"""Background work of alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from clavitor_fleet.alerts.evaluator import Evaluator
from clavitor_host.api import every

if TYPE_CHECKING:
    from clavitor_fleet.fleet import Fleet
    from clavitor_host.api import Job

PERIOD: Final = 15.0
"""Seconds from one look at all rules to the next."""


def alert_jobs(fleet: Fleet) -> Sequence[Job]:
    """Return the jobs."""
    evaluator = Evaluator(fleet.host, fleet.telemetry, fleet.metrics)
    return [every(PERIOD, evaluator.evaluate, name="alert-rules", exclusive=True)]
