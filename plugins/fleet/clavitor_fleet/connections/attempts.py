"""What the outbox knows of attempts: what is next for a connection, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from clavitor_fleet.connections.history import forget_settled
from clavitor_fleet.connections.models import Message
from clavitor_fleet.connections.notices import Notice, tell_operator
from clavitor_fleet.connections.tables import outbound_connections, outbound_deliveries
from clavitor_fleet.records import SYSTEM, record

if TYPE_CHECKING:
    from clavitor_fleet.connections.sending import Outcome
    from clavitor_host.api import Host, Transaction

PATIENCE: Final = 86_400_000_000
"""µs of failures after which what has waited as long is given up."""

_connections, _deliveries = outbound_connections.c, outbound_deliveries.c


class Ready(NamedTuple):
    """A connection for which something waits. next_attempt_at: µs, None for at once."""

    connection_id: str
    next_attempt_at: int | None
    failures: int
    seq: int


class Next(NamedTuple):
    """What is to be sent next over a connection, and how the connection is."""

    connection_id: str
    name: str
    url: str
    secret: str
    updated_at: int
    failures: int
    seq: int
    message: Message


async def ready(host: Host) -> list[Ready]:
    """Return every enabled connection for which something waits: those that do not fail first."""
    oldest = (
        sa.select(sa.func.min(_deliveries.seq))
        .where(_deliveries.connection_id == _connections.id, _deliveries.state == "waiting")
        .scalar_subquery()
    )
    query = sa.select(_connections.id, _connections.next_attempt_at, _connections.failures, oldest.label("seq"))
    rows = await host.db.fetch_all(query.where(_connections.enabled))
    found = [Ready(*row.values()) for row in rows if row["seq"] is not None]
    return sorted(found, key=lambda one: (one.failures, one.seq))


async def next_of(host: Host, connection_id: str) -> Next | None:
    """Return what is to be sent over a connection now, None when there is nothing, or it is disabled or gone."""
    own = (_connections.id.label("connection_id"), _connections.name, _connections.url, _connections.secret)
    message = (_deliveries.id.label("delivery_id"), _deliveries.event, _deliveries.body)
    query = (
        sa.select(*own, _connections.updated_at, _connections.failures, _deliveries.seq, *message)
        .join_from(outbound_connections, outbound_deliveries, _deliveries.connection_id == _connections.id)
        .where(_connections.id == connection_id, _connections.enabled, _deliveries.state == "waiting")
        .order_by(_deliveries.seq)
        .limit(1)
    )
    row = await host.db.fetch_one(query)
    if row is None:
        return None
    found = {name: row[name] for name in Next._fields if name in row}
    return Next(**found, message=Message(row["delivery_id"], row["event"], row["body"].encode()))


async def settle(host: Host, sent: Next, outcome: Outcome) -> None:
    """Keep that a message was delivered."""
    now = host.clock.now_us()
    async with host.db.transaction() as tx:
        well = {"failures": 0, "failing_since": None, "next_attempt_at": None, "last_error": None}
        same = sa.update(outbound_connections).where(_connections.id == sent.connection_id)
        await tx.execute(same.values({**well, "last_delivered_at": now}))
        await _note(tx, sent, state="delivered", body="", status=outcome.status, error=None, settled_at=now, at=now)
        await forget_settled(tx, [sent.connection_id])


async def failed(host: Host, sent: Next, outcome: Outcome, pause: float) -> int:
    """Keep that an attempt failed, and let `pause` seconds pass; return how many deliveries were given up.

    A connection that was changed meanwhile begins anew: the failure was of what it was before.
    """
    now = host.clock.now_us()
    async with host.db.transaction() as tx:
        change = sa.update(outbound_connections).where(
            _connections.id == sent.connection_id, _connections.updated_at == sent.updated_at
        )
        still = await tx.execute(
            change.values(
                failures=_connections.failures + 1,
                failing_since=sa.func.coalesce(_connections.failing_since, now),
                next_attempt_at=now + int(pause * 1_000_000),
                last_error=outcome.reason,
            )
        )
        await _note(tx, sent, status=outcome.status, error=outcome.reason, at=now)
        return await _give_up(host, tx, sent, outcome, now) if still else 0


async def _note(tx: Transaction, sent: Next, *, at: int, **values: Any) -> None:
    mine = sa.update(outbound_deliveries).where(_deliveries.seq == sent.seq, _deliveries.id == sent.message.id)
    await tx.execute(mine.values(**values, attempts=_deliveries.attempts + 1, attempted_at=at))


async def _give_up(host: Host, tx: Transaction, sent: Next, outcome: Outcome, now: int) -> int:
    """Give up what has waited too long while the connection has failed that long."""
    since = sa.select(_connections.failing_since).where(_connections.id == sent.connection_id)
    if int(await tx.fetch_val(since)) > now - PATIENCE:
        return 0
    old = (
        _deliveries.connection_id == sent.connection_id,
        _deliveries.state == "waiting",
        _deliveries.created_at <= now - PATIENCE,
    )
    gone = {"state": "given_up", "body": "", "settled_at": now, "error": outcome.reason}
    count = await tx.execute(sa.update(outbound_deliveries).where(*old).values(gone))
    if count:
        await forget_settled(tx, [sent.connection_id])
        what = "1 delivery" if count == 1 else f"{count} deliveries"
        title = f"gave up {what} over outbound connection {sent.name}"
        payload = {"outbound_connection_id": sent.connection_id, "deliveries": count, "reason": outcome.reason}
        message = f"Outbound connection {sent.name} has failed for a day: {what} given up. {outcome.reason}"
        await tell_operator(host, tx, [Notice("outbound_delivery_given_up", message, payload)])
        await record(host, tx, SYSTEM, "give_up_delivery", title=title, payload=payload)
    return count
