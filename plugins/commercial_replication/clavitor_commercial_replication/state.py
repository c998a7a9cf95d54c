"""What this POP is, as the database says: role, epoch, stream. Every change of it is one transaction that has locked
the vault's head, so no write slips past it in any process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from clavitor_commercial_replication import tables
from clavitor_commercial_replication.digests import NOTHING
from clavitor_commercial_replication.models import Peer, Role, State
from clavitor_host.api import Database, Host, PointRead, Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANGED = "replication.state"
"""The topic of `host.signals` that is sent with every change of role or epoch."""

_STATE = sa.select(*(tables.state.c[name] for name in State._fields)).where(tables.state.c.id == 1)
# `promoted_complete_rev` < X-Min-Rev <= `promoted_from_rev`: a write that may never have come here (the guard's 412)
_BUCKETS = sa.select(tables.state.c.buckets).where(tables.state.c.id == 1)
_PEER = sa.select(*(tables.peer.c[name] for name in Peer._fields)).where(tables.peer.c.id == 1)
_READ = PointRead(_STATE)


async def read(source: Database | Transaction) -> State | None:
    """Return the state, None where replication has never been on. Outside a transaction one point read, cheap enough
    for every request."""
    row = await source.point_read(_READ)
    return None if row is None else State(*row)


async def required(source: Database | Transaction) -> State:
    """Return the state where `begin` has run."""
    found = await read(source)
    assert found is not None
    return found


async def buckets(source: Database | Transaction) -> bytes:
    """Return the 256 hashes."""
    value: bytes = await source.fetch_val(_BUCKETS)
    return value


async def peer(source: Database | Transaction) -> Peer:
    """Return what is known of the other POP."""
    row = await source.fetch_one(_PEER)
    assert row is not None
    return Peer(*(row[name] for name in Peer._fields))


async def update(tx: Transaction, **values: Any) -> None:
    """Set columns of `replication_state`."""
    await _update(tx, "replication_state", values)


async def update_peer(tx: Transaction, **values: Any) -> None:
    """Set columns of `replication_peer`."""
    await _update(tx, "replication_peer", values)


async def _update(tx: Transaction, table: str, values: Mapping[str, Any]) -> None:
    sets = ", ".join(f"{name} = :{name}" for name in values)
    await tx.execute(f"UPDATE {table} SET {sets} WHERE id = 1", values)  # noqa: S608 - names of our own columns


async def begin(host: Host, role: Role) -> State:
    """Return the state; the first time this POP starts with a role it is made. Safe in several processes at once.

    Entries that were written while replication was off are found by the vault's head, and enlisted anew.
    """
    async with host.db.transaction() as tx:
        head = await host.vault.lock(tx)
        known = await read(tx)
        if known is None:
            first = State(
                role=role,
                role_since=host.clock.now_us(),
                reason=None,
                epoch=1 if role == "primary" else 0,
                stream_id=uuid4().hex if role == "primary" else None,
                head_rev=head.rev,
                enlisted=head.rev == 0,
                reseed_from=None,
                reseed_after="",
            )
            row: Mapping[str, Any] = {"id": 1, **first._asdict(), "buckets": NOTHING}
            await tx.insert_many(tables.state, [row])
            await tx.execute(sa.insert(tables.peer).values(id=1))
            return first
        if known.head_rev != head.rev:
            known = known._replace(enlisted=False, head_rev=head.rev)
            await update(tx, enlisted=False, head_rev=head.rev)
        return known
