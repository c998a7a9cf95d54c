"""What a license is worth right now: the rows of the database, judged by the keys of this process."""

from __future__ import annotations

from typing import NamedTuple

from clavitor_licensing.clock import MICROSECONDS, HighWater
from clavitor_licensing.domain.info import LicenseInfo, LicenseRejected
from clavitor_licensing.domain.limits import LicenseLimits
from clavitor_licensing.domain.schema import Payload
from clavitor_licensing.domain.state import LicenseState, LicenseStateMachine
from clavitor_licensing.source import Configured, Keys
from clavitor_licensing.store import Row, Stored


class Standing(NamedTuple):
    """One reading of the database. version: of the state it was read with."""

    version: int = -1
    machine: LicenseStateMachine = LicenseStateMachine()
    clock: HighWater = HighWater()
    stored: Stored = Stored()

    @property
    def row(self) -> Row | None:
        """The row of the license."""
        return self.stored.row

    @property
    def installed(self) -> LicenseInfo | None:
        """The stored license, when it is valid, whatever was refused after it."""
        stored = self.machine.stored
        return stored if isinstance(stored, LicenseInfo) else None

    @property
    def stored_refusal(self) -> str | None:
        """The code with which the stored token is refused; None when nothing is wrong with it, or none is stored."""
        stored = self.machine.stored
        return stored.code if isinstance(stored, LicenseRejected) else None

    def time(self, wall: int) -> int:
        """Return the time for licensing in Unix seconds. wall: in µs."""
        return self.clock.time(wall) // MICROSECONDS

    def state(self, wall: int) -> LicenseState:
        """Return the state. wall: in µs."""
        return self.machine.state(self.time(wall))

    def limits(self, wall: int) -> LicenseLimits:
        """Return the caps. wall: in µs."""
        return self.machine.limits(self.time(wall))


def judge(stored: Stored, keys: Keys, wall: int, configured: Configured | None = None) -> Standing:
    """Return what the rows amount to. wall: now, in µs.

    configured: for a command, the token that the first start of a server would install. It counts as long as there was
    none: from then on what the servers decided does, which a request may have changed since.
    """
    state = stored.state
    now = state.clock.floor(wall) // MICROSECONDS
    machine = LicenseStateMachine(
        None if stored.row is None else _held(keys.judge(stored.row.token, now)),
        state.rejected.as_domain() if state.rejected else None,
    )
    if configured is not None and stored.is_untouched:
        token = configured.token
        given = _held(keys.judge(token, now)) if isinstance(token, str) else token
        if isinstance(given, LicenseRejected):
            machine = machine.refuse(given, configured=True)
        else:
            machine = machine.install(given)
    return Standing(state.version, machine, state.clock, stored)


def _held(outcome: Payload | LicenseRejected) -> LicenseInfo | LicenseRejected:
    return outcome if isinstance(outcome, LicenseRejected) else outcome.info
