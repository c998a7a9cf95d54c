"""When tokens and sessions were last used: kept in memory by requests, written once a minute in one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_host.identity.state import state_of
from clavitor_host.identity.tables import sessions, tokens

if TYPE_CHECKING:
    from clavitor_host.host import Host

CHUNK = 500
"""Rows that one UPDATE changes."""


async def flush_last_used(host: Host) -> None:
    """Write what this process has seen since the last call. On an error nothing is lost: the next call retries."""
    state = state_of(host)
    await _flush(host, state.tokens_used, tokens.c.id, tokens.c.last_used_at)
    await _flush(host, state.sessions_seen, sessions.c.id, sessions.c.last_seen_at)


async def _flush(host: Host, seen: dict[str, int], key: sa.Column[str], column: sa.Column[int]) -> None:
    while seen:
        chunk = dict(list(seen.items())[:CHUNK])
        latest = sa.case(chunk, value=key)
        update = sa.update(key.table).where(key.in_(list(chunk))).values({column: latest})
        await host.db.execute(update)
        for name, at in chunk.items():
            if seen.get(name) == at:
                del seen[name]
        if len(chunk) < CHUNK:
            return  # what came in meanwhile waits for the next call
