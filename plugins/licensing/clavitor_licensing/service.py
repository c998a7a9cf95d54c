"""The license of a deployment: what is installed, what it is worth, and every change of it.

For routes, commands and pages (`host.state["licensing"]`; in a command's offline host too):

    view() -> View                                          how licensing stands, read anew
    usage() -> tuple[LimitUsage, ...]                       all thirteen limits, in their order
    preview(token) -> Preview                               what installing would do; changes nothing
    install(token, by=…, address="", source="api") -> View
    removal() -> tuple[RetentionPreview, ...]               what would be deleted without the license; changes nothing
    remove(by=…, address="") -> View
    forget_refused(by=…, address="") -> View                the stored license counts again
    reset_clock(by=…, address="") -> View
    revalidate() -> View                                    validate the stored token again, now

`by` is the audit actor, `address` where the request came from. `preview` and `install` raise a 400 whose `code` is the
refusal's and whose `detail` and `message` say why; `remove` a 404 `no_license`, `forget_refused` a 404
`nothing_refused`; any of them `StorageUnavailable`.

The database is the truth: a change is written there with a new version, and this process, as every other, reads what
became of it. Who missed the signal finds it at the next `tick`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from clavitor_host.api import Host, Problem, Transaction, problem
from clavitor_licensing import store
from clavitor_licensing.changes import LicenseChanges, is_overdue
from clavitor_licensing.clock import MICROSECONDS, HighWater
from clavitor_licensing.domain.info import DAY, LicenseInfo, LicenseRejected
from clavitor_licensing.domain.limits import LIMITS, LicenseLimits
from clavitor_licensing.domain.messages import usage_message
from clavitor_licensing.domain.state import LicenseState, days_remaining
from clavitor_licensing.models import LimitPreview, LimitUsage, Preview, RetentionPreview, View
from clavitor_licensing.source import Configured, Keys, Setting, Source, normal, read_configured, read_keys
from clavitor_licensing.standing import Standing, judge
from clavitor_licensing.teller import Teller
from clavitor_licensing.usage import read_usage, usage_rows

if TYPE_CHECKING:
    from clavitor_licensing.config import LicensingConfig


class LicenseService:
    """One per app. `start` it before anything else; `tick` about once a minute."""

    _keys: Keys

    def __init__(self, host: Host, config: LicensingConfig) -> None:
        self._host = host
        self._config = config
        self._changes = LicenseChanges(host)
        self.teller = Teller(host, self.known)
        self._configured: Configured | None = None
        self._reported: str | None = None
        """Why the stored token is refused, as far as this process has told."""
        self._standing = Standing()
        self._loading = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._follow_again = False
        self._unsubscribe: Callable[[], None] | None = None

    # --- life

    async def start(self) -> None:
        """Load the license: environment, file, database, none (seed section 6.2); then tell once."""
        await self._read_configuration()
        if self._host.offline:  # by merely running, a command writes nothing
            await self._load()
            return
        self._unsubscribe = self._host.signals.subscribe(store.CHANGED, lambda _: self.follow())
        await self._changes.boot(self._keys, self._configured)
        await self._changes.keep_time()
        await self._load()
        self._reported = self._standing.stored_refusal
        await self.teller.boot()

    async def stop(self) -> None:
        """Finish what runs behind the scenes."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self.teller.settled()

    # --- reading

    def state(self) -> LicenseState:
        """Return the state, as this process knows it."""
        return self._standing.state(self._wall())

    def limits(self) -> LicenseLimits:
        """Return the caps, as this process knows them."""
        return self._standing.limits(self._wall())

    def days_left(self) -> float | None:
        """Return the days until the license expires, with their fraction: negative from then on. None without one."""
        standing, wall = self._standing, self._wall()
        held = standing.machine.held
        if not isinstance(held, LicenseInfo):
            return None
        return (held.exp - standing.clock.time(wall) / MICROSECONDS) / DAY

    def after_restart(self) -> LicenseInfo | LicenseRejected | None:
        """Return what the next start would put in the place of what is in force; None when it changes nothing."""
        row, configured = self._standing.row, self._configured
        if configured is None or self._shadow(row.token if row else None) is None:
            return None
        token = configured.token
        found = self._keys.judge(token, self._floor(self._standing.clock)) if isinstance(token, str) else token
        return found if isinstance(found, LicenseRejected) else found.info

    def known(self) -> View:
        """Return how licensing stands, as this process knows it: what another one did is here within a minute."""
        standing, wall = self._standing, self._wall()
        now, held, row = standing.time(wall), standing.machine.held, standing.row
        return View(
            state=standing.state(wall),
            message=usage_message(held, now),
            tenant_id=self._host.config.tenant_id,
            license=held if isinstance(held, LicenseInfo) else None,
            installed=standing.installed,
            limits=standing.limits(wall),
            days_remaining=days_remaining(held, now),
            last_validated_at=row.last_validated_at if row else None,
            installed_at=row.installed_at if row else None,
            installed_by=row.installed_by if row else None,
            source=row.source if row else None,
            rejection=standing.stored.state.rejected,
            stored_refusal=standing.stored_refusal,
            shadowed_by=self._shadow(row.token if row else None),
            time=now,
            clock_stopped=standing.clock.time(wall) != wall,
            seen_at=standing.clock.seen_at,
        )

    async def view(self) -> View:
        """Return how licensing stands, read anew: a validation, too, that another process has noted since."""
        await self._load()
        return self.known()

    async def usage(self) -> tuple[LimitUsage, ...]:
        """Return the use of every limit beside its cap. Waits for no writer."""
        await self.refresh()
        return usage_rows(await read_usage(self._host), self.limits())

    async def standing(self, tx: Transaction) -> Standing:
        """Return what counts in a transaction that holds `store.LOCK`: never what another process has replaced."""
        state = await store.read_state(tx)
        if state.version == self._standing.version:
            return self._standing._replace(clock=state.clock)
        self.follow()
        return self._judge(await store.read(tx, self._host.config.tenant_id))

    async def last_validated_age(self) -> int | None:
        """Return the µs since the stored token was last found good, by any process; None when there is none."""
        row = (await store.read(self._host.db, self._host.config.tenant_id)).row
        return None if row is None else max(0, self._wall() - row.last_validated_at)

    # --- changing

    async def preview(self, token: str) -> Preview:
        """Return what installing a token would do."""
        await self._read_configuration()
        await self.refresh()
        token, wall, before = normal(token), self._wall(), self._standing
        outcome = self._keys.judge(token, self._floor(before.clock))
        if isinstance(outcome, LicenseRejected):
            raise _refused(outcome, self.state())
        after = before._replace(machine=before.machine.install(outcome.info))
        old, new = before.limits(wall), after.limits(wall)
        async with self._host.db.snapshot() as tx:
            used = await read_usage(self._host, tx)
            configured = await self._host.cap_values(tx)
        limits = tuple(
            LimitPreview(key, old.cap(key), new.cap(key), used[key], max(0, used[key] - new.cap(key))) for key in LIMITS
        )
        retention = retention_preview(old, new, configured)
        return Preview(after.state(wall), outcome.info, before.installed, limits, retention, self._shadow(token))

    async def removal(self) -> tuple[RetentionPreview, ...]:
        """Return what environments would keep less of without the license."""
        await self.refresh()
        before, wall = self._standing, self._wall()
        after = before._replace(machine=before.machine.remove())
        async with self._host.db.snapshot() as tx:
            configured = await self._host.cap_values(tx)
        return retention_preview(before.limits(wall), after.limits(wall), configured)

    async def install(self, token: str, *, by: str, address: str = "", source: Source = "api") -> View:
        """Install a license in the place of any other."""
        await self._read_configuration()
        outcome = await self._changes.install(self._keys, normal(token), by=by, address=address, source=source)
        await self._load()
        if isinstance(outcome, LicenseRejected):
            raise _refused(outcome, self.state())
        return self.known()

    async def remove(self, *, by: str, address: str = "") -> View:
        """Remove the license, and forget what was refused."""
        await self._changes.remove(self._keys, by=by, address=address)
        await self._load()
        return self.known()

    async def forget_refused(self, *, by: str, address: str = "") -> View:
        """Forget the token that was refused: what is stored counts again."""
        await self._changes.forget_refused(self._keys, by=by, address=address)
        await self._load()
        return self.known()

    async def reset_clock(self, *, by: str, address: str = "") -> View:
        """Forget the highest time seen: from now on the clock is believed again."""
        await self._changes.reset_clock(by=by, address=address)
        await self._load()
        return self.known()

    async def revalidate(self) -> View:
        """Validate the stored token again, with the keys as they are now (seed section 6.6)."""
        await self._read_configuration()
        await self._changes.revalidate(self._keys)
        await self._load()
        self._reported = self._standing.stored_refusal
        return self.known()

    # --- following

    async def refresh(self) -> None:
        """Read the license again when it was changed, by whomever. Costs one read when it was not."""
        state = await store.read_state(self._host.db)
        if state.version != self._standing.version:
            await self._load()

    def follow(self) -> None:
        """Have `refresh` run behind the scenes, soon."""
        self._follow_again = True
        if self._following is None or self._following.done():
            self._following = self.teller.behind(self._follow())

    async def tick(self) -> None:
        """Look after what nobody tells: rows and keys that changed by themselves, a validation that failed to run, the
        clock, and the states it leads to."""
        await self._read_configuration()
        stored = await store.read(self._host.db, self._host.config.tenant_id)
        now = self._judge(stored)
        refusal = now.stored_refusal
        # Once for each process: where keys are rotated server by server, two that disagree must not take turns.
        if refusal not in (self._reported, stored.state.failed_code):
            await self._changes.revalidate(self._keys, expected=now.version)
        elif is_overdue(stored, self._wall()):
            await self._changes.revalidate(self._keys, overdue=True)
        self._reported = refusal
        await self._changes.keep_time()
        await self._load()

    # --- inside

    async def _load(self) -> None:
        """Read and judge the license; tell when that, or time alone, has changed something."""
        async with self._loading:
            before = self._standing
            self._standing = self._judge(await store.read(self._host.db, self._host.config.tenant_id))
            changed = self._standing.version != before.version
            self.teller.changed(self._standing.stored.state.reason if changed else None)

    async def _follow(self) -> None:
        while self._follow_again:
            self._follow_again = False
            await self.refresh()

    async def _read_configuration(self) -> None:
        """Read the keys, and the token that would win at the next start, as they are now."""
        self._keys = await read_keys(self._config, self._host.config.tenant_id)
        self._configured = await read_configured(self._config)

    def _judge(self, stored: store.Stored) -> Standing:
        return judge(stored, self._keys, self._wall(), self._configured if self._host.offline else None)

    def _shadow(self, token: object) -> Setting | None:
        """Return the setting that would put another token in the place of `token` at the next start."""
        configured = self._configured
        return None if configured is None or configured.token == token else configured.source

    def _floor(self, clock: HighWater) -> int:
        return clock.floor(self._wall()) // MICROSECONDS

    def _wall(self) -> int:
        return self._host.clock.now_us()


def retention_preview(
    old: LicenseLimits, new: LicenseLimits, configured: Mapping[str, Mapping[str, int]]
) -> tuple[RetentionPreview, ...]:
    """Return what would shrink, in the order of the limits, by environment.

    configured: `{limit: {environment: value}}`. What is in force is that value, or the cap where that is lower.
    """
    shrunk = []
    for limit in LIMITS:
        was, then = old.cap(limit), new.cap(limit)
        for environment, value in sorted(configured.get(limit, {}).items()):
            if min(then, value) < min(was, value):
                shrunk.append(RetentionPreview(environment, limit, min(was, value), min(then, value)))
    return tuple(shrunk)


def _refused(rejection: LicenseRejected, state: LicenseState) -> Problem:
    """Return the 400 for a token that was refused. state: the one that the server is in now."""
    return problem(400, rejection.code, f"{rejection.message}.", message=rejection.message, state=state.value)
