"""What the sender does about an error: it counts it, writes it down, alerts once, and says how long to wait."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from clavitor_commercial_replication import fencing, queue, rules, state
from clavitor_commercial_replication.backoff import Backoff
from clavitor_commercial_replication.link import LinkError, Refused, Rejected, Unauthorised
from clavitor_commercial_replication.models import Task
from clavitor_host.api import StorageUnavailable, log

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

ERROR_INTERVAL = 10.0
"""Seconds for which the same error is not written down again."""


class Trouble:
    """Lasts from the first error to the first success."""

    def __init__(self, service: Replication) -> None:
        self._service = service
        self._host = service.host
        self._backoff = Backoff()
        self._alerted = False
        self._split: int | None = None  # the epoch of which the other POP is the primary, too
        self._noted: tuple[str, float] = ("", 0.0)

    async def take(self, error: LinkError, failed: Sequence[Task]) -> float:
        """Note what went wrong and draw the consequences; return the seconds to wait. failed: what was not taken."""
        self._service.metrics.failures.labels(error.reason).inc()
        with suppress(StorageUnavailable):
            if await self._fenced_by(error):
                return 0.0
            if failed:
                await self.count(failed)
            await self._note(error)
        if isinstance(error, (Refused, Rejected, Unauthorised)) and not self._alerted:
            self._alerted = True
            await self._alert(error)
        return max(self._backoff.next(), min(error.wait, self._backoff.longest))

    async def count(self, tasks: Sequence[Task]) -> None:
        """Count one more failed attempt of each."""
        async with self._host.db.transaction() as tx:
            await self._host.vault.lock(tx)
            await queue.retried(tx, tasks)

    def over(self) -> None:
        """All goes well again."""
        if self._noted[0]:
            log.info("Replication to the backup POP goes on")
        self._noted = ("", 0.0)
        self._alerted = False
        self._backoff.reset()

    async def _fenced_by(self, error: LinkError) -> bool:
        """Fence this POP when the other one knows of a later primary; tell whether it did."""
        epoch = error.body.get("epoch")
        self._split = None
        if error.status != 409 or type(epoch) is not int:
            return False
        known = await state.required(self._host.db)
        both = known.role == error.body.get("role") == "primary" and known.epoch == epoch
        self._split = epoch if both else None
        if known.role != "primary" or not rules.is_stale(known.epoch, epoch):
            return False
        await fencing.fence(self._service, "superseded", epoch)
        return (await state.required(self._host.db)).role != "primary"

    async def _note(self, error: LinkError) -> None:
        """Write an error down for `status`: when it is a new one, or after a while."""
        text, now = f"{error.reason}: {error.detail}", self._host.clock.monotonic()
        if text == self._noted[0] and now - self._noted[1] < ERROR_INTERVAL:
            return
        if text != self._noted[0]:
            log.warning("Replication to the backup POP is held up", reason=error.reason, detail=error.detail)
        self._noted = (text, now)
        async with self._host.db.transaction() as tx:
            await self._host.vault.lock(tx)
            await state.update_peer(tx, last_error=text[:500], last_error_at=self._host.clock.now_us())

    async def _alert(self, error: LinkError) -> None:
        if self._split is not None:
            message = (
                f"Both POPs are the primary, of the same epoch {self._split}, and take writes. Decide which one goes "
                "on, and run `clavitor replication promote --force` there: the other one then turns read-only."
            )
            await self._host.edition.alert_operator("REPLICATION_SPLIT_BRAIN", message, {"epoch": self._split})
        else:
            message = f"The backup POP refuses to replicate. {error.detail}"
            if error.body.get("role") == "fenced":
                message += " It was the primary before: run `clavitor replication reseed` there."
            await self._host.edition.alert_operator("REPLICATION_REFUSED", message, {"status": error.status})
