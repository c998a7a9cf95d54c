"""Tells the operator what needs a person: once, and when it is over. After a start it is told again.

Time is counted by the clock that never goes back, from what was seen to change: a jump of the wall clock is no alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clavitor_commercial_replication import status
from clavitor_commercial_replication.fencing import BECAUSE, next_step
from clavitor_commercial_replication.words import entries, lasting

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication
    from clavitor_commercial_replication.status import Facts

INTERVAL = 5.0
"""Seconds between two looks."""

FENCED = "REPLICATION_FENCED"
STALLED = "REPLICATION_STALLED"
RESUMED = "REPLICATION_RESUMED"
MISMATCH = "REPLICATION_MISMATCH"
EQUAL = "REPLICATION_EQUAL"
UNCOMPARED = "REPLICATION_UNCOMPARED"
COMPARED = "REPLICATION_COMPARED"
NOWHERE = "REPLICATION_NOWHERE"
SOMEWHERE = "REPLICATION_SOMEWHERE"


class Watch:
    """Looks at one POP's replication. One per app."""

    def __init__(self, service: Replication) -> None:
        self._service = service
        self._seen: tuple[Any, ...] | None = None
        self._oldest: int | None = None
        self._changed = 0.0
        self._compared: int | None = None
        self._compared_since = 0.0
        self._fenced_at: int | None = None
        self._told: set[str] = set()

    async def look(self) -> None:
        """Look once."""
        facts = await status.facts_of(self._service)
        if facts is None:
            return
        await self._look_at_role(facts)
        await self._look_at_address(facts)
        await self._look_at_progress(facts)
        await self._look_at_hashes(facts)

    async def _look_at_role(self, facts: Facts) -> None:
        """Each fence is told of from here alone, so that it is told once, whichever process fenced and wherever it
        died; it is known by its moment."""
        if facts.role != "fenced" or facts.reason is None or facts.role_since == self._fenced_at:
            return
        self._fenced_at = facts.role_since
        step = next_step(facts.reason, facts.depth)
        message = f"This POP takes no more writes because {BECAUSE[facts.reason]}. {step}"
        details = {"reason": facts.reason, "epoch": facts.epoch, "unreplicated": facts.depth}
        await self._service.host.edition.alert_operator(FENCED, message, details)

    async def _look_at_progress(self, facts: Facts) -> None:
        """Progress is a success of the stream; while it is far behind, one that brings it on."""
        now = self._service.host.clock.monotonic()
        idle = facts.role == "fenced" or (facts.role == "primary" and facts.url is None)
        seen = (facts.role, facts.last_success_at)
        behind = facts.role == "primary" and facts.lag_seconds > self._service.config.stalled_after
        stuck = behind and facts.sendable_at == self._oldest
        self._oldest = facts.sendable_at
        if self._seen is None or idle or (seen != self._seen and not stuck):
            self._changed = now
        self._seen = seen
        silent = now - self._changed
        if silent > self._service.config.stalled_after:
            await self._tell(STALLED, _stalled(facts, silent), _details(facts, silent_seconds=round(silent, 1)))
        elif silent == 0.0:
            await self._over(STALLED, RESUMED, "Replication goes on.", _details(facts))

    async def _look_at_address(self, facts: Facts) -> None:
        if facts.role == "primary" and facts.url is None:
            message = (
                "This POP is the primary, and its writes are replicated to nowhere: set backup_url in "
                "[plugins.commercial_replication]."
            )
            await self._tell(NOWHERE, message, _details(facts))
        else:
            await self._over(NOWHERE, SOMEWHERE, "This POP's writes are replicated again.", _details(facts))

    async def _look_at_comparing(self, facts: Facts) -> None:
        """Hashes that are not compared any more prove nothing. While nothing gets through at all, that is told."""
        now = self._service.host.clock.monotonic()
        if facts.compared_at is None or facts.compared_at != self._compared or STALLED in self._told:
            self._compared, self._compared_since = facts.compared_at, now
            if STALLED not in self._told:
                await self._over(UNCOMPARED, COMPARED, "Both vaults are compared again.", _details(facts))
        elif facts.reseed_from is None and now - self._compared_since > facts.compare_within:
            await self._tell(UNCOMPARED, status.uncompared(facts), _details(facts, quarantined=facts.quarantined))

    async def _look_at_hashes(self, facts: Facts) -> None:
        if facts.role == "fenced":
            return
        await self._look_at_comparing(facts)
        if facts.mismatches:
            message = (
                f"The primary and its backup are not equal: {facts.mismatches} of 256 hashes differ. Run `clavitor "
                "replication verify` on the primary."
            )
            await self._tell(MISMATCH, message, _details(facts, differing=facts.mismatches))
        elif facts.compared_at is not None:
            await self._over(MISMATCH, EQUAL, "The primary and its backup are equal again.", _details(facts))

    async def _tell(self, alert: str, message: str, details: Mapping[str, Any]) -> None:
        if alert not in self._told:
            self._told.add(alert)
            await self._service.host.edition.alert_operator(alert, message, details)

    async def _over(self, alert: str, over: str, message: str, details: Mapping[str, Any]) -> None:
        if alert in self._told:
            self._told.discard(alert)
            await self._service.host.edition.alert_operator(over, message, details)


def _stalled(facts: Facts, silent: float) -> str:
    span = lasting(silent)
    if facts.role == "backup":
        return f"The primary has not been heard for {span}: this POP falls behind."
    error = f" The last error: {facts.last_error}" if facts.last_error else ""
    return f"Nothing has got through to the backup for {span}; {entries(facts.depth)} wait here.{error}"


def _details(facts: Facts, **more: Any) -> dict[str, Any]:
    return {
        "role": facts.role,
        "epoch": facts.epoch,
        "peer": facts.peer or facts.url or "",
        "depth": facts.depth,
        "lag_seconds": round(facts.lag_seconds, 3),
        **more,
    }
