"""Every change of the license: one transaction each, under one lock, with its audit row.

What it leads to `LicenseStateMachine` says; here it becomes the rows.
"""

from __future__ import annotations

import socket
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from clavitor_host.api import log, problem
from clavitor_licensing import audit, store
from clavitor_licensing.clock import MICROSECONDS, HighWater
from clavitor_licensing.domain.info import DAY, LicenseRejected
from clavitor_licensing.domain.schema import is_license_id
from clavitor_licensing.models import iso_of
from clavitor_licensing.source import digest
from clavitor_licensing.standing import judge
from clavitor_licensing.store import MOST_BOOTS, Rejection, State, Stored

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction
    from clavitor_licensing.domain.schema import Payload
    from clavitor_licensing.domain.state import LicenseStateMachine
    from clavitor_licensing.source import Configured, Keys, Source

FROM_CONFIGURATION: Final = ("env", "file")
OF_THE_COMMAND: Final = ("no_public_key", "tenant")
"""Refusals that may be the fault of a command's own settings: they say nothing about the server's license."""
OVERDUE: Final = (DAY + 3600) * MICROSECONDS
"""µs after which the daily validation counts as missed."""


class LicenseChanges:
    """Writes, and reads nothing into memory: whoever calls reads what became of it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tenant = host.config.tenant_id
        self._node = _node(host)
        self._told_rollback = False

    async def boot(self, keys: Keys, configured: Configured | None) -> None:
        """Do what a start does (seed section 6.2): the configuration wins, else what is stored is validated.

        Only the first process of a start installs: a worker that comes later, or replaces one that died, must not undo
        what was installed since.
        """
        async with self._host.db.transaction() as tx:
            stored, machine = await self._begin(tx, keys)
            first = self._host.boot_id not in stored.state.boots
            if first:
                boots = (*stored.state.boots, self._host.boot_id)[-MOST_BOOTS:]
                stored = stored._replace(state=stored.state._replace(boots=boots))
                await self._write(tx, stored.state)
            if configured is None or not first:
                await self._boot_from_database(tx, stored, machine, forget=first)
                return
            token = configured.token
            outcome = keys.judge(token, self._now(stored)) if isinstance(token, str) else token
            if isinstance(outcome, LicenseRejected):
                await self._boot_refused(tx, stored, machine, outcome, configured)
            elif stored.row is not None and stored.row.token == token:
                await store.note_validated(tx, stored.row, self._wall())
                await self._move(tx, stored, machine.install(outcome.info), "boot")
            else:
                assert isinstance(token, str)
                await self._put(tx, stored, machine, outcome, token, by=audit.SYSTEM, source=configured.source)

    async def install(
        self, keys: Keys, token: str, *, by: str, address: str, source: Source
    ) -> Payload | LicenseRejected:
        """Store a license in the place of any other, or note why not; return what the token says, or that.

        A command that cannot judge, because it was run without the server's settings, leaves no more than an audit row.
        """
        async with self._host.db.transaction() as tx:
            stored, machine = await self._begin(tx, keys)
            outcome = keys.judge(token, self._now(stored))
            if not isinstance(outcome, LicenseRejected):
                await self._put(tx, stored, machine, outcome, token, by=by, source=source, address=address)
                return outcome
            if source != "command" or outcome.code not in OF_THE_COMMAND:
                after = machine.refuse(outcome)
                if after is not machine:  # over nothing the state stays as it was
                    refused = Rejection(outcome.code, outcome.message, source, self._wall(), digest(token))
                    await self._move(tx, stored, after, "rejected", refused=refused, judged=False)
            entry = audit.rejected(outcome.message, by=by, source=source, address=address)
            await self._host.audit.record(tx, entry)
        say = log.info if self._host.offline else log.warning  # a command says it itself
        say("A license was rejected", code=outcome.code, reason=outcome.message, source=source, by=by)
        return outcome

    async def remove(self, keys: Keys, *, by: str, address: str) -> None:
        """Remove the license, and what was refused. Raises a 404 when there is neither."""
        async with self._host.db.transaction() as tx:
            stored, machine = await self._begin(tx, keys)
            if stored.row is None and stored.state.rejected is None:
                raise problem(404, "no_license", "No license is installed.")
            await store.delete_license(tx)
            await self._move(tx, stored, machine.remove(), "removed", always=True)
            license_id = _license_id(stored) if stored.row else None
            await self._host.audit.record(tx, audit.removed(license_id, by=by, address=address))

    async def forget_refused(self, keys: Keys, *, by: str, address: str) -> None:
        """Let what is stored count again. Raises a 404 when nothing was refused."""
        async with self._host.db.transaction() as tx:
            stored, machine = await self._begin(tx, keys)
            refused = stored.state.rejected
            if refused is None:
                raise problem(404, "nothing_refused", "No token was refused.")
            await self._move(tx, stored, machine.forget(), "forgotten", judged=False)
            entry = audit.forgotten(refused.message, refused.source, by=by, address=address)
            await self._host.audit.record(tx, entry)

    async def revalidate(self, keys: Keys, *, expected: int | None = None, overdue: bool = False) -> None:
        """Validate the stored token again (seed section 6.6).

        expected: only at this version of the state. overdue: only when it was not validated for more than a day.
        """
        async with self._host.db.transaction() as tx:
            stored, machine = await self._begin(tx, keys)
            row, outcome = stored.row, machine.stored
            if row is None or expected not in (None, stored.state.version):
                return
            if overdue and not is_overdue(stored, self._wall()):
                return
            await self._move(tx, stored, machine.revalidate(outcome), "revalidated", always=_is_bad(outcome))
            if not isinstance(outcome, LicenseRejected):
                await store.note_validated(tx, row, self._wall())
                return
            await self._host.audit.record(tx, audit.revalidated(_license_id(stored), outcome.message))
        log.error("The stored license is not valid any more", code=outcome.code, reason=outcome.message)

    async def reset_clock(self, *, by: str, address: str) -> None:
        """Forget the highest time seen: the clock is believed again."""
        async with self._host.db.transaction() as tx:
            state, wall = (await self._read(tx)).state, self._wall()
            await self._write(tx, state._replace(clock=HighWater(wall)), "clock")
            await self._host.audit.record(tx, audit.clock_reset(state.clock.seen_at, wall, by=by, address=address))

    async def keep_time(self) -> None:
        """Write the highest time seen now and then; notice a clock that went back, or has caught up."""
        clock = (await store.read_state(self._host.db)).clock
        if not clock.rolled_back(self._wall()):
            self._told_rollback = False
        if not self._time_matters(clock):
            return
        told = ""
        async with self._host.db.transaction() as tx:
            state, wall = (await self._read(tx)).state, self._wall()
            clock = state.clock
            if not self._time_matters(clock):
                return
            if clock.passed(wall):
                told = "The clock has caught up: time for licensing goes on"
                await self._write(tx, state._replace(clock=HighWater(wall)), "clock")
            elif clock.rolled_back(wall):
                told = "The clock went back by more than a day: time for licensing stands still until it has caught up"
                await self._write(tx, state._replace(clock=HighWater(clock.seen_at, stopped=True)), "clock")
                await self._host.audit.record(tx, audit.clock_rolled_back(clock.seen_at, wall))
            else:
                await self._write(tx, state)
        if told:
            # Once: beside servers whose clocks are right, one that is days behind would stop them for ever.
            self._told_rollback = clock.rolled_back(wall)
            log.warning(told, highest_seen=iso_of(clock.seen_at), now=iso_of(wall))

    def _time_matters(self, clock: HighWater) -> bool:
        wall = self._wall()
        went_back = clock.rolled_back(wall) and not clock.stopped and not self._told_rollback
        return went_back or clock.passed(wall) or (clock.is_due(wall) and not clock.stopped)

    async def _read(self, tx: Transaction) -> Stored:
        await tx.lock(store.LOCK)
        return await store.read(tx, self._tenant)

    async def _begin(self, tx: Transaction, keys: Keys) -> tuple[Stored, LicenseStateMachine]:
        """Return the rows, and what they amount to."""
        stored = await self._read(tx)
        return stored, judge(stored, keys, self._wall()).machine

    async def _boot_from_database(
        self, tx: Transaction, stored: Stored, machine: LicenseStateMachine, *, forget: bool
    ) -> None:
        """forget: this server's configuration names no token any more, so neither does one count that it named."""
        state, outcome = stored.state, machine.stored
        rejected = state.rejected
        if forget and rejected is not None and rejected.source in FROM_CONFIGURATION and rejected.node == self._node:
            machine = machine.forget()
        await self._move(tx, stored, machine.revalidate(outcome), "boot")
        if isinstance(outcome, LicenseRejected):
            if state.failed_code != outcome.code:
                entry = audit.rejected(outcome.message, by=audit.SYSTEM, source="database")
                await self._host.audit.record(tx, entry)
        elif stored.row is not None:
            await store.note_validated(tx, stored.row, self._wall())

    async def _boot_refused(
        self,
        tx: Transaction,
        stored: Stored,
        machine: LicenseStateMachine,
        outcome: LicenseRejected,
        configured: Configured,
    ) -> None:
        source = configured.source
        refused = Rejection(outcome.code, outcome.message, source, self._wall(), configured.digest, node=self._node)
        if refused.is_of(stored.state.rejected):  # the same again is no news
            return
        after = machine.refuse(outcome, configured=True)
        await self._move(tx, stored, after, "rejected", refused=refused, judged=False)
        await self._host.audit.record(tx, audit.rejected(outcome.message, by=audit.SYSTEM, source=source))

    async def _put(
        self,
        tx: Transaction,
        stored: Stored,
        machine: LicenseStateMachine,
        payload: Payload,
        token: str,
        *,
        by: str,
        source: Source,
        address: str = "",
    ) -> None:
        info = payload.info
        await store.put_license(tx, info, token, source=source, by=by, at=self._wall())
        await self._move(tx, stored, machine.install(info), "installed", always=True)
        replaces = None if stored.row is None else _license_id(stored)
        entry = audit.installed(info, by=by, source=source, replaces=replaces, address=address)
        await self._host.audit.record(tx, entry)
        if payload.ignored:
            names = ", ".join(payload.ignored)
            tx.after_commit(lambda: log.info("The license says things that are ignored", names=names))

    async def _move(
        self,
        tx: Transaction,
        stored: Stored,
        after: LicenseStateMachine,
        reason: str,
        *,
        refused: Rejection | None = None,
        judged: bool = True,
        always: bool = False,
    ) -> None:
        """Write the state that a transition led to, when that is another one, or `always`.

        refused: a new refusal. judged: the stored token was judged for this, so that what became of it counts.
        """
        state = stored.state
        rejected = (refused or state.rejected) if after.refused is not None else None
        failed = after.stored.code if isinstance(after.stored, LicenseRejected) else None
        state = state._replace(rejected=rejected, failed_code=failed if judged else state.failed_code)
        if always or state != stored.state:
            await self._write(tx, state, reason)

    async def _write(self, tx: Transaction, state: State, changed: str | None = None) -> None:
        await store.write_state(self._host, tx, state, changed=changed)

    def _now(self, stored: Stored) -> int:
        return stored.state.clock.floor(self._wall()) // MICROSECONDS

    def _wall(self) -> int:
        return self._host.clock.now_us()


def is_overdue(stored: Stored, wall: int) -> bool:
    """Whether a stored token that was good was not validated for more than a day. wall: now, in µs."""
    row = stored.row
    return row is not None and stored.state.failed_code is None and wall - row.last_validated_at > OVERDUE


def _is_bad(outcome: object) -> bool:
    return isinstance(outcome, LicenseRejected)


def _node(host: Host) -> str:
    """Return what tells this node from others on its database; a SQLite file has but one, whatever it is called."""
    if host.config.storage_url.startswith("sqlite:"):
        return ""
    return sha256(f"{socket.gethostname()}\n{host.data_dir}".encode()).hexdigest()[:16]


def _license_id(stored: Stored) -> str:
    """Return the id of the stored license for the audit log; "" when what stands there is none."""
    found = stored.row.license_id if stored.row else ""
    return found if is_license_id(found) else ""
