"""Slowing down guesses: failed logins by name and by address, counted in the database for all processes."""

from __future__ import annotations

import ipaddress
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from clavitor_host.errors import Problem
from clavitor_host.identity.ids import digest
from clavitor_host.identity.names import name_key
from clavitor_host.identity.tables import login_failures

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.storage.database import Transaction

LOGIN_LOCK = "clavitor.login"
FIRST_DELAY = 5.0
"""Seconds of the first delay; every further failure doubles it, up to the window."""


class Attempt(NamedTuple):
    """A login that is being tried: what it counts for, and how many failures each key may have."""

    bounds: dict[str, int]
    name: str


def attempt(host: Host, name: str, address: str) -> Attempt:
    """Return what a login as `name` from `address` counts for. No address (a unix socket): only the name."""
    limits = host.config.login
    key = f"name:{digest(name_key(name).encode('utf-8', 'surrogatepass'))[:32]}"
    bounds = {key: limits.failures_per_name}
    if address:
        bounds = {f"address:{_network(address)}": limits.failures_per_address, key: limits.failures_per_name}
    return Attempt(bounds, key)


async def admit(host: Host, tried: Attempt) -> None:
    """Count a login as failed before it is looked at, so that many at once get no more tries than one by one.

    Raises a 429 with Retry-After while a key is blocked; that costs one read. Call `forgive` when the login is good.
    """
    query = sa.select(login_failures).where(login_failures.c.key.in_(list(tried.bounds)))
    now = host.clock.now_us()
    _assert_open(await host.db.fetch_all(query), now)
    async with host.db.transaction() as tx:
        await tx.lock(LOGIN_LOCK)
        known = await tx.fetch_all(query)
        _assert_open(known, now)
        window = host.config.login.window
        rows = {row["key"]: row for row in known}
        counted = [_count(rows.get(key), key, bound, window, now) for key, bound in tried.bounds.items()]
        await tx.insert_many(login_failures, counted, upsert_on=("key",), update=("count", "first_at", "blocked_until"))


async def forgive(tx: Transaction, tried: Attempt) -> None:
    """Take a good login back out of the count, in its transaction: the name starts anew, the address gets one back."""
    for key, bound in tried.bounds.items():  # the address first, as `admit` does: the same order cannot deadlock
        if key == tried.name:
            await tx.execute(sa.delete(login_failures).where(login_failures.c.key == key))
            continue
        left = login_failures.c.count - 1
        await tx.execute(
            sa.update(login_failures)
            .where(login_failures.c.key == key, login_failures.c.count > 0)
            .values(count=left, blocked_until=sa.case((left < bound, 0), else_=login_failures.c.blocked_until))
        )


async def purge(host: Host) -> None:
    """Delete what no longer counts."""
    now = host.clock.now_us()
    old = now - int(host.config.login.window * 1_000_000)
    await host.db.execute(
        sa.delete(login_failures).where(login_failures.c.first_at < old, login_failures.c.blocked_until < now)
    )


def _count(row: Any, key: str, bound: int, window: float, now: int) -> dict[str, Any]:
    count, first_at = 1, now
    if row is not None and now < max(row["first_at"] + int(window * 1_000_000), row["blocked_until"]):
        count, first_at = row["count"] + 1, row["first_at"]
    delay = 0.0
    if count >= bound:
        delay = min(window, FIRST_DELAY * 2.0 ** min(count - bound, 30))
    return {
        "key": key,
        "count": count,
        "first_at": first_at,
        "blocked_until": now + int(delay * 1_000_000) if delay else 0,
    }


def _assert_open(rows: Any, now: int) -> None:
    until = max((row["blocked_until"] for row in rows), default=0)
    if until > now:
        seconds = math.ceil((until - now) / 1_000_000)
        raise Problem(
            429,
            "too_many_logins",
            "Too many failed logins; wait before the next one.",
            headers={"Retry-After": str(seconds)},
        )


def _network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return digest(address.encode("utf-8", "surrogatepass"))[:32]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
