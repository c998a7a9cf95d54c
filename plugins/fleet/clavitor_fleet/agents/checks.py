"""Whether event streams may go on: the token is good, the agent has its seat, and it has opened no newer stream."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_fleet.agents.liveness import live_since, state_of
from clavitor_fleet.agents.tables import agents
from clavitor_host.api import valid_tokens

if TYPE_CHECKING:
    from clavitor_fleet.agents.stream import EventStream
    from clavitor_host.api import Host, Row

_AT_ONCE = 2000
"""Streams that one query looks at."""
_COLUMNS = (
    agents.c.id,
    agents.c.stream_id,
    agents.c.gone_at,
    agents.c.stale_at,
    agents.c.last_seen_at,
    agents.c.command_seq,
)


async def still_good(host: Host, streams: Collection[EventStream]) -> set[EventStream]:
    """Return which of the streams may go on, by two queries; each then knows its agent's last command."""
    good: set[EventStream] = set()
    every = list(streams)
    for start in range(0, len(every), _AT_ONCE):
        good |= await _good(host, every[start : start + _AT_ONCE])
    return good


async def _good(host: Host, streams: Sequence[EventStream]) -> set[EventStream]:
    ids = sorted({stream.agent_id for stream in streams})
    rows: dict[str, Row] = {
        row["id"]: row for row in await host.db.fetch_all(sa.select(*_COLUMNS).where(agents.c.id.in_(ids)))
    }
    tokens = await valid_tokens(host, {stream.token_id for stream in streams if stream.token_id is not None})
    since = live_since(host)
    good: set[EventStream] = set()
    for stream in streams:
        row = rows.get(stream.agent_id)
        newest = row is not None and row["stream_id"] == stream.claim and state_of(row, since) == "LIVE"
        if row is not None and newest and (stream.token_id is None or stream.token_id in tokens):
            stream.last_command = row["command_seq"]
            good.add(stream)
    return good
