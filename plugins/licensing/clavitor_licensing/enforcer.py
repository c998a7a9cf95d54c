"""Whether more may be created: the one place where a cap is enforced (seed section 4, spec section 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from clavitor_host.api import CapExceeded, Host, Transaction, log, problem
from clavitor_licensing import audit, store
from clavitor_licensing.domain.limits import DEFAULT_TIER_LIMITS, VALUE_LIMITS
from clavitor_licensing.domain.messages import cap_message
from clavitor_licensing.sampler import Sampler

if TYPE_CHECKING:
    from clavitor_licensing.service import LicenseService

LOG_INTERVAL: Final = 60.0
"""Seconds between two log lines about the same limit."""

CountRefusal = Callable[[str], None]


class LicenseEnforcer:
    """`count`: called with the limit at each refusal."""

    def __init__(self, host: Host, service: LicenseService, count: CountRefusal) -> None:
        self._host = host
        self._service = service
        self._count = count
        self._sampler = Sampler(LOG_INTERVAL)

    async def assert_within_cap(self, tx: Transaction, limit: str, delta: int, requested_by: str) -> None:
        """Raise `CapExceeded` when `delta` more of `limit` would pass its cap; the first thing in a transaction.

        A reduction, or nothing, always passes. The lock is held to the end of the transaction, so that what is counted
        here stays true until the new one is there. Raises a 500 `unknown_limit` for a limit no license knows.
        """
        if delta <= 0:
            return
        if limit not in DEFAULT_TIER_LIMITS:
            raise problem(500, "unknown_limit", "What was asked for counts to a limit that licenses do not know.")
        await tx.lock(store.LOCK)
        standing = await self._service.standing(tx)
        now = standing.time(self._host.clock.now_us())
        cap = standing.machine.limits(now).cap(limit)
        if limit in VALUE_LIMITS:  # `delta` is the value asked for, nothing is counted, and the refusal is a 422
            current, wanted, status = delta, delta, 422
        else:
            current = (await self._host.cap_usage(tx, (limit,))).get(limit, 0)
            wanted, status = current + delta, 403
        if wanted <= cap:
            return
        state = standing.machine.state(now).value
        message = cap_message(standing.machine.held, now, limit=limit, cap=cap, current=current)
        refusal = CapExceeded(limit=limit, current=current, cap=cap, state=state, message=message, status=status)
        tx.after_end(lambda: self._note(refusal, requested_by))
        raise refusal

    def flush(self) -> None:
        """Log how many refusals were held back, when it is time to."""
        for limit, times in self._sampler.due(self._host.clock.monotonic()):
            log.warning("License caps refused more", limit=limit, times=times)

    def _note(self, refusal: CapExceeded, requested_by: str) -> Awaitable[None]:
        """Record a refusal when its transaction has ended, rolled back or not: each counted and audited, logged now and
        then. Whoever waits for the transaction waits for the row; it is written even when they go away."""
        limit, current, cap, state = refusal.limit, refusal.current, refusal.cap, refusal.state
        self._count(limit)
        times = self._sampler.admit(limit, self._host.clock.monotonic())
        if times is not None:
            say = log.info if self._host.offline else log.warning  # a command says it itself
            say(
                "A license cap refused something",
                limit=limit,
                current=current,
                cap=cap,
                state=state,
                requested_by=requested_by,
                times=times,
            )
        entry = audit.cap_exceeded(limit=limit, current=current, cap=cap, requested_by=requested_by, state=state)
        return _ended(self._service.teller.behind(self._host.audit.note(entry)))


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
