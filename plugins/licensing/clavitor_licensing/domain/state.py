"""The five states, and how a server gets from one to another (seed section 3, spec sections 3 and 4).

Nothing here knows a clock: who asks says when. So ACTIVE becomes GRACE becomes EXPIRED without anybody doing anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from clavitor_licensing.domain.info import DAY, LicenseInfo, LicenseRejected
from clavitor_licensing.domain.limits import DEFAULT_TIER, LicenseLimits

Held: TypeAlias = LicenseInfo | LicenseRejected | None
"""What decides the state: a license, or why there is none, or that nobody gave one."""


class LicenseState(StrEnum):
    """What a license is worth now."""

    ABSENT = "ABSENT"
    ACTIVE = "ACTIVE"
    GRACE = "GRACE"
    EXPIRED = "EXPIRED"
    INVALID = "INVALID"

    @property
    def severity(self) -> str:
        """The level at which entering the state is logged: INFO, WARNING or ERROR."""
        return _SEVERITY[self]


_SEVERITY: Final = {
    LicenseState.ABSENT: "INFO",
    LicenseState.ACTIVE: "INFO",
    LicenseState.GRACE: "WARNING",
    LicenseState.EXPIRED: "ERROR",
    LicenseState.INVALID: "ERROR",
}


def license_state(held: Held, now: int) -> LicenseState:
    """Return the state at a time. now: Unix seconds."""
    if held is None:
        return LicenseState.ABSENT
    if isinstance(held, LicenseRejected):
        return LicenseState.INVALID
    if now < held.exp:
        return LicenseState.ACTIVE
    return LicenseState.GRACE if now < held.grace_ends else LicenseState.EXPIRED


def effective_limits(held: Held, now: int) -> LicenseLimits:
    """Return what applies at a time: the license over the default tier while it counts, else the default tier."""
    if isinstance(held, LicenseInfo) and now < held.grace_ends:
        return held.limits
    return DEFAULT_TIER


def days_since(then: int, now: int) -> int:
    """Whole days that have passed since a time: rounded down, 0 for today. Unix seconds."""
    return max(0, (now - then) // DAY)


def days_until(then: int, now: int) -> int:
    """Days that are left until a time: rounded up, so that 1 means at most a day. Unix seconds."""
    return max(0, -((now - then) // DAY))


def days_remaining(held: Held, now: int) -> int | None:
    """Whole days until `exp`, rounded up; from then on minus those that passed, -1 on the first day already. None when
    there is no license."""
    if not isinstance(held, LicenseInfo):
        return None
    return days_until(held.exp, now) if now < held.exp else min(-1, -days_since(held.exp, now))


class LicenseStateMachine(NamedTuple):
    """What a server holds. Each transition returns another one; `changes` makes no other.

    stored: what became of the stored token when it was last validated; None when no token is stored.
    refused: the token that was to replace it and was rejected. It makes the state INVALID until a token is accepted.
    """

    stored: Held = None
    refused: LicenseRejected | None = None

    @property
    def held(self) -> Held:
        """What decides the state."""
        return self.refused or self.stored

    def state(self, now: int) -> LicenseState:
        """Return the state at a time. now: Unix seconds."""
        return license_state(self.held, now)

    def limits(self, now: int) -> LicenseLimits:
        """Return the limits that apply at a time. now: Unix seconds."""
        return effective_limits(self.held, now)

    def install(self, info: LicenseInfo) -> LicenseStateMachine:
        """A token was accepted: whatever was before, the new license decides."""
        return LicenseStateMachine(info)

    def refuse(self, rejection: LicenseRejected, *, configured: bool = False) -> LicenseStateMachine:
        """A token was rejected. Over anything held, the state becomes INVALID; over nothing it stays ABSENT.

        configured: it came from the environment or a file, where it stays: INVALID also over nothing.
        """
        if self.held is None and not configured:
            return self
        return self._replace(refused=_bare(rejection))

    def revalidate(self, outcome: Held) -> LicenseStateMachine:
        """The stored token was validated again (None: it is gone). What was refused stays refused."""
        return self._replace(stored=_bare(outcome) if isinstance(outcome, LicenseRejected) else outcome)

    def forget(self) -> LicenseStateMachine:
        """What was refused does not count any more: the stored license decides again."""
        return self._replace(refused=None)

    def remove(self) -> LicenseStateMachine:
        """The license was removed."""
        return LicenseStateMachine()


def _bare(rejection: LicenseRejected) -> LicenseRejected:
    """Without the traceback, whose frames hold the token."""
    return LicenseRejected(rejection.code, rejection.message)
