"""Who is LIVE: the clock tells, from the last heartbeat. LIVE agents hold a seat of `max_agents`.

An agent is LIVE as long as it has not missed three heartbeats in a row. A seat that was lost is had again only by
whoever passes the cap: `take_seat`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from clavitor_fleet.agents.models import AgentState
from clavitor_fleet.agents.tables import agents
from clavitor_fleet.deployments.places import agents_changed
from clavitor_fleet.records import SYSTEM, record
from clavitor_host.api import log

if TYPE_CHECKING:
    from clavitor_host.api import Database, Host, Identity, Row, Transaction

CHANGED: Final = "fleet.agents"
"""The signal that an agent has changed in a way that its event stream must hear of. Payload: its id, "" for several."""
MISSED = 3
"""Heartbeats that an agent may miss before it is STALE."""
GONE_AFTER = 86_400
"""Seconds that an agent is STALE before it is GONE."""
SECOND = 1_000_000
"""µs."""

_LOCK = "clavitor_fleet.agents.stale"
_NAMED = 100
"""Agents that an audit row names at most."""
_LOGGED = 5
"""Agents that a log line names at most."""


def heartbeat_interval(host: Host) -> int:
    """Return the seconds between two heartbeats."""
    from clavitor_fleet.fleet import fleet_of

    return fleet_of(host).config.heartbeat_interval


def live_since(host: Host) -> int:
    """Return the time of the last heartbeat from which on an agent is LIVE now, in µs since the epoch."""
    return host.clock.now_us() - MISSED * heartbeat_interval(host) * SECOND


def is_live(since: int) -> sa.ColumnElement[bool]:
    """Return the condition on `agents` that a row is LIVE. since: of `live_since`."""
    return sa.and_(agents.c.gone_at.is_(None), agents.c.stale_at.is_(None), agents.c.last_seen_at >= since)


def in_state(state: AgentState, since: int) -> sa.ColumnElement[bool]:
    """Return the condition on `agents` that a row is in a state."""
    if state == "GONE":
        return agents.c.gone_at.is_not(None)
    if state == "LIVE":
        return is_live(since)
    late = sa.or_(agents.c.stale_at.is_not(None), agents.c.last_seen_at < since)
    return sa.and_(agents.c.gone_at.is_(None), late)


def state_of(row: Mapping[str, Any], since: int) -> AgentState:
    """Return the state of a row with `gone_at`, `stale_at` and `last_seen_at`."""
    if row["gone_at"] is not None:
        return "GONE"
    return "STALE" if row["stale_at"] is not None or row["last_seen_at"] < since else "LIVE"


async def count_live_agents(host: Host, source: Database | Transaction) -> int:
    """Return how many agents are LIVE: what `max_agents` counts."""
    return int(await source.fetch_val(sa.select(sa.func.count()).select_from(agents).where(is_live(live_since(host)))))


async def count_agents(host: Host) -> dict[tuple[str, ...], float]:
    """Return how many agents are LIVE and how many STALE, by one query."""
    live = sa.func.sum(sa.case((is_live(live_since(host)), 1), else_=0))
    query = sa.select(sa.func.count().label("present"), sa.func.coalesce(live, 0).label("live"))
    row = await host.db.fetch_one(query.where(agents.c.gone_at.is_(None)))
    assert row is not None
    return {("LIVE",): float(row["live"]), ("STALE",): float(row["present"] - row["live"])}


async def take_seat(host: Host, tx: Transaction, requested_by: Identity) -> Sequence[Row]:
    """Pass the cap for one more LIVE agent, first of all in a transaction. Raises `CapExceeded`.

    Returns the agents found STALE on the way, for `note_stale`. They are marked before the second look: a heartbeat
    that came in time, but is committed beside this transaction, is either counted there or finds the mark.
    """
    await host.assert_within_cap(tx, "max_agents", 1, requested_by.actor)
    stale = await mark_stale(host, tx)
    await host.assert_within_cap(tx, "max_agents", 1, requested_by.actor)
    return stale


async def mark_stale(host: Host, tx: Transaction) -> Sequence[Row]:
    """Mark all agents that have missed their heartbeats; return their id, app_id and name. That each became STALE stays
    written down until it is reported."""
    await lock_liveness(tx)
    late = sa.and_(agents.c.gone_at.is_(None), agents.c.stale_at.is_(None), agents.c.last_seen_at < live_since(host))
    now = host.clock.now_us()
    marked = sa.update(agents).where(late).values(stale_at=now, unreported_stale_at=now)
    return await tx.fetch_all(marked.returning(agents.c.id, agents.c.app_id, agents.c.name))


async def lock_liveness(tx: Transaction) -> None:
    """Wait until no other transaction marks or ends many agents."""
    await tx.lock(_LOCK)


async def note_stale(host: Host, tx: Transaction, stale: Sequence[Row]) -> None:
    """Tell deployments and event streams of agents that were marked, and, before the commit, the audit log."""
    if not stale:
        return
    await agents_changed(host, tx, *(row["app_id"] for row in stale))
    await host.signals.send(tx, CHANGED, stale[0]["id"] if len(stale) == 1 else "")
    tx.before_commit(_record_stale, (host, stale))
    tx.after_commit(lambda: _log_stale(stale))


def _log_stale(stale: Sequence[Row]) -> None:
    named = ", ".join(f"{row['name']} ({row['id']})" for row in stale[:_LOGGED])
    log.warning("Agents have missed their heartbeats and are STALE", count=len(stale), agents=named)


async def _record_stale(tx: Transaction, items: Sequence[tuple[Host, Sequence[Row]]]) -> None:
    stale = [row for _, rows in items for row in rows]
    ids = sorted(row["id"] for row in stale)
    title = f"agent {stale[0]['name']} is stale" if len(ids) == 1 else f"{len(ids)} agents are stale"
    payload = {"agents": ids[:_NAMED], "count": len(ids)}
    await record(items[0][0], tx, SYSTEM, "stale_agents", title=title, payload=payload)
