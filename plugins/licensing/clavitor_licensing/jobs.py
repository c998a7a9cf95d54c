"""The plugin's background work (seed section 6.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clavitor_host.api import Job, cron, every

if TYPE_CHECKING:
    from clavitor_licensing.enforcer import LicenseEnforcer
    from clavitor_licensing.service import LicenseService

AFTER_BOOT: Final = 60.0
"""Seconds after the start at which the license is validated again."""
TICK: Final = 60.0
"""Seconds after which each process looks at what nobody told it, and at the clock."""
_ONCE: Final = 10 * 366 * 86_400.0
"""Seconds until a job that runs once would run again."""


def license_jobs(service: LicenseService, enforcer: LicenseEnforcer) -> list[Job]:
    """Return the revalidation, in one process of a deployment, and the look around of every process."""

    async def revalidate() -> None:
        await service.revalidate()

    async def tick() -> None:
        enforcer.flush()
        await service.tick()

    return [
        cron("0 3 * * *", revalidate, name="revalidate", exclusive=True, run_missed=True),
        every(_ONCE, revalidate, name="revalidate-after-boot", first_after=AFTER_BOOT, exclusive=True),
        every(TICK, tick, name="tick"),
    ]
