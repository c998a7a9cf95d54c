"""Leases: exclusive work runs in one process of a deployment.

A row of `leases` names the holder and when its hold ends. One task renews all leases of this process in one
statement every third of `ttl`; expiry is judged by one clock, the database server's on PostgreSQL and this machine's
on SQLite (whose processes share it). A holder that cannot renew counts its lease as lost when `ttl` has passed since
the last renewal *began*, by its own monotonic clock: never later than the database does.

No hold ends later than `ttl` from now. One that seems to was taken before the clock was set back, and counts as
expired, or a dead holder would keep it for as long as the clock went back. A live holder whose lease is taken for that
reason notices at its next renewal, and the fence refuses it at once: the same as when the clock is set forward. So all
processes of a deployment have the same `ttl`.

`token` grows whenever a lease changes hands or is taken anew. It is the fence: whoever acts for a holder passes it
on, and `Lease.check(tx)` refuses inside a transaction what an old holder still tries.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from loguru import logger

from clavitor_host.clock import Clock
from clavitor_host.errors import StorageUnavailable
from clavitor_host.storage.database import Database
from clavitor_host.storage.errors import LeaseLost
from clavitor_host.storage.tables import leases
from clavitor_host.storage.transaction import Transaction

WAITING_INTERVAL = 1.0
"""Seconds between looks at a lease that another process holds; a look is one cheap read."""

_SLACK = 0.1
"""Part of `ttl` by which a hold may seem to last too long: what other processes renew meanwhile, small corrections."""

_TAKE = """
INSERT INTO leases (name, holder, token, expires_at)
SELECT w.name, :holder, 1, {now} + :ttl FROM {wanted}
ON CONFLICT (name) DO UPDATE SET
    token = CASE WHEN leases.holder = excluded.holder AND leases.expires_at > {now}
                      AND leases.token = (SELECT w.token FROM {wanted} WHERE w.name = leases.name)
                 THEN leases.token ELSE leases.token + 1 END,
    holder = excluded.holder,
    expires_at = excluded.expires_at
WHERE leases.holder = excluded.holder OR leases.expires_at <= {now} OR leases.expires_at > {now} + :longest
RETURNING name, token
"""
_TAKE_SQLITE = _TAKE.format(
    now=":now",
    wanted="(SELECT key AS name, value AS token FROM json_each(:wanted) WHERE 1 ORDER BY key) AS w",
).replace("AS w\nON", "AS w WHERE 1\nON")  # SQLite reads "SELECT … ON" as a join without a WHERE
_SERVER_NOW = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint"
_TAKE_POSTGRESQL = _TAKE.format(
    now=_SERVER_NOW,
    wanted="(SELECT key AS name, value::bigint AS token FROM json_each_text(CAST(:wanted AS json)) ORDER BY key) AS w",
)
for _number in (":ttl", ":longest"):
    _TAKE_POSTGRESQL = _TAKE_POSTGRESQL.replace(_number, f"CAST({_number} AS bigint)")


async def is_held(db: Database, clock: Clock, name: str) -> bool:
    """Tell whether any process holds a lease. That of a killed one counts as held until its time is over."""
    held = sa.select(sa.func.count()).where(leases.c.name == name, leases.c.expires_at > _now(db, clock))
    return bool(await db.fetch_val(held))


class Lease:
    """One wanted lease. `held` and `lost` are events; `token` is the fence while `held` is set."""

    def __init__(self, name: str, holder: str) -> None:
        self.name = name
        self.token = 0
        self.held = asyncio.Event()
        self.lost = asyncio.Event()
        self._holder = holder
        self._deadline = 0.0

    async def acquired(self) -> int:
        """Wait until this process holds the lease; return its fencing token."""
        await self.held.wait()
        return self.token

    async def check(self, tx: Transaction) -> None:
        """Raise `LeaseLost` unless the lease is still held; on PostgreSQL nobody can take it before `tx` ends."""
        query = sa.select(leases.c.holder, leases.c.token).where(leases.c.name == self.name)
        row = await tx.fetch_one(query.with_for_update(read=True))
        if not self.held.is_set() or row is None or (row["holder"], row["token"]) != (self._holder, self.token):
            raise LeaseLost(f"The lease {self.name!r} is held by another process.")

    def _gained(self, token: int, deadline: float) -> None:
        self._deadline = deadline
        if not self.held.is_set() or token != self.token:
            self.token = token
            self.lost.clear()
            self.held.set()

    def _gone(self) -> None:
        if self.held.is_set():
            self.held.clear()
            self.lost.set()


class LeaseKeeper:
    """Takes and renews the leases of one process. `ttl`: seconds after which a dead holder's lease is free."""

    def __init__(self, db: Database, clock: Clock, *, ttl: float = 30.0) -> None:
        self._db = db
        self._clock = clock
        self._ttl = ttl
        self._longest = int(ttl * (1 + _SLACK) * 1_000_000)
        self._leases: dict[str, Lease] = {}
        self._asked: set[str] = set()  # for these the database was asked: only they can be this process's there
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:12]}"

    def want(self, name: str) -> Lease:
        """Return the lease `name`, to be taken as soon as it is free and then kept. Twice: the same object."""
        lease = self._leases.get(name)
        if lease is None:
            lease = self._leases[name] = Lease(name, self.holder)
            self._changed.set()
        return lease

    async def release(self, lease: Lease) -> None:
        """Give a lease up, so that another process can take it at once."""
        self._leases.pop(lease.name, None)
        if lease.held.is_set():
            lease._gone()
            await self._give_back([lease.name])

    async def start(self) -> None:
        """Begin to take and renew."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._run(), name="lease keeper"),
                asyncio.create_task(self._watch(), name="lease watch"),
            ]

    async def stop(self) -> None:
        """Stop, and release what is held, so that another process takes over at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for lease in self._leases.values():
            lease._gone()
        if self._asked:
            await self._give_back(sorted(self._asked))

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._round()
            except StorageUnavailable as error:
                logger.warning("Leases cannot be renewed: {}", error.detail)
            except Exception:  # noqa: BLE001 - the keeper must outlive whatever went wrong
                logger.exception("Leases cannot be renewed")
            await self._pause()

    async def _round(self) -> None:
        """Renew what is held; take what is free."""
        held = [lease for lease in self._leases.values() if lease.held.is_set()]
        waiting = [lease for lease in self._leases.values() if not lease.held.is_set()]
        due = any(lease._deadline - self._clock.monotonic() <= self._ttl * 2 / 3 + 0.05 for lease in held)
        if due or (waiting and await self._any_free(waiting)):
            await self._take([*held, *waiting])

    async def _take(self, wanted: Sequence[Lease]) -> None:
        began = self._clock.monotonic()
        self._asked.update(lease.name for lease in wanted)
        values = {
            "wanted": json.dumps({lease.name: lease.token if lease.held.is_set() else 0 for lease in wanted}),
            "holder": self.holder,
            "ttl": int(self._ttl * 1_000_000),
            "longest": self._longest,
        }
        async with self._db.transaction() as tx:
            if tx.dialect == "postgresql":
                rows = await tx.fetch_all(_TAKE_POSTGRESQL, values)
            else:
                rows = await tx.fetch_all(_TAKE_SQLITE, {**values, "now": self._clock.now_us()})
        tokens = {row["name"]: int(row["token"]) for row in rows}
        for lease in wanted:
            token = tokens.get(lease.name)
            if token is None:
                lease._gone()
            elif self._leases.get(lease.name) is not lease:
                await self._give_back([lease.name])
            elif lease.held.is_set() and token != lease.token:
                lease._gone()  # it was free for a moment: whoever worked under the old token must notice
                lease._gained(token, began + self._ttl)
            else:
                lease._gained(token, began + self._ttl)

    async def _any_free(self, waiting: Sequence[Lease]) -> bool:
        now = _now(self._db, self._clock)
        taken = sa.select(sa.func.count()).where(
            leases.c.name.in_([lease.name for lease in waiting]),
            leases.c.holder != self.holder,
            leases.c.expires_at > now,
            leases.c.expires_at <= now + self._longest,
        )
        return bool(await self._db.fetch_val(taken) < len(waiting))

    async def _give_back(self, names: Sequence[str]) -> None:
        """Free these leases, of those that are this process's. It may have one that it does not know of: whoever is
        stopped while it takes it still commits."""
        mine = sa.and_(leases.c.holder == self.holder, leases.c.name.in_(names))
        try:
            await self._db.execute(sa.update(leases).where(mine).values(expires_at=0))
        except StorageUnavailable as error:
            logger.warning("Leases are left to expire: {}", error.detail)

    async def _watch(self) -> None:
        """Count a lease as lost the moment its time is over, also while the database does not answer."""
        while True:
            now = self._clock.monotonic()
            for lease in self._leases.values():
                if lease.held.is_set() and now >= lease._deadline:
                    lease._gone()
                    logger.warning("The lease {} could not be renewed in time", lease.name)
            held = [lease._deadline - now for lease in self._leases.values() if lease.held.is_set()]
            await self._clock.sleep(min([self._ttl / 3, *held]))

    async def _pause(self) -> None:
        """Sleep until the next round, or until another lease is wanted."""
        waiting = any(not lease.held.is_set() for lease in self._leases.values())
        sleeping = asyncio.ensure_future(self._clock.sleep(min(self._ttl / 3, WAITING_INTERVAL if waiting else 1e9)))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({sleeping, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changed.cancel()


def _now(db: Database, clock: Clock) -> Any:
    """Return the time, in µs, by the clock that judges leases."""
    return sa.literal_column(_SERVER_NOW, sa.BigInteger) if db.dialect == "postgresql" else clock.now_us()
