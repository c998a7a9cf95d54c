"""The plugin's metrics (seed section 8). What the clock changes is measured at each scrape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from clavitor_licensing.clock import MICROSECONDS
from clavitor_licensing.domain.limits import LIMITS
from clavitor_licensing.domain.state import LicenseState

if TYPE_CHECKING:
    from clavitor_host.api import Metrics
    from clavitor_licensing.service import LicenseService

Measured = dict[tuple[str, ...], float]


class LicenseMetrics:
    """`service`: the service, None before there is one."""

    def __init__(self, registry: Metrics, service: Callable[[], LicenseService | None]) -> None:
        self._service = service
        self._begun = False
        self._rejections = registry.counter(
            "clavitor_license_cap_rejections_total", "What a license cap has refused, by limit.", ("limit",)
        )
        registry.before_render(self._begin_series)
        registry.on_scrape(
            "clavitor_license_state", "The state of the license: 1 for the one it is in.", self._state, ("state",)
        )
        registry.on_scrape(
            "clavitor_license_days_remaining",
            "Days until the license expires, with their fraction; negative when it has expired, left out without a "
            "license.",
            self._days_remaining,
        )
        registry.on_scrape(
            "clavitor_license_limit_utilisation",
            "What is in use of a limit, as a fraction of its cap.",
            self._utilisation,
            ("limit",),
        )
        registry.on_scrape(
            "clavitor_license_last_validated_age_seconds",
            "Seconds since the stored license was last found valid; left out without a license.",
            self._last_validated_age,
        )

    def _begin_series(self) -> None:
        """Have every limit's counter there, at 0, from the first scrape: so the first refusal makes a rate."""
        if not self._begun:
            self._begun = True
            for limit in LIMITS:
                self._rejections.labels(limit).inc(0)

    def rejected(self, limit: str) -> None:
        """Count one refusal."""
        self._rejections.labels(limit).inc()

    async def _state(self) -> Measured:
        service = self._service()
        if service is None:
            return {}
        now = (await service.view()).state
        return {(state.value,): float(state is now) for state in LicenseState}

    async def _days_remaining(self) -> Measured:
        service = self._service()
        days = None if service is None else service.days_left()
        return {} if days is None else {(): days}

    async def _utilisation(self) -> Measured:
        service = self._service()
        if service is None:
            return {}
        return {(limit.key,): _fraction(limit.current, limit.cap) for limit in await service.usage()}

    async def _last_validated_age(self) -> Measured:
        service = self._service()
        if service is None:
            return {}
        age = await service.last_validated_age()
        return {} if age is None else {(): age / MICROSECONDS}


def _fraction(current: int, cap: int) -> float:
    if cap == 0:
        return float("inf") if current else 0.0
    return current / cap
