"""How event streams begin: where the agent was, or now; and what happened in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clavitor_fleet.agents.events import entry_event
from clavitor_fleet.agents.stream import parse_position

if TYPE_CHECKING:
    from clavitor_fleet.agents.stream import EventStream
    from clavitor_host.api import Host

MOST = 1000
"""Changes that a stream catches up with; an agent that missed more reads everything again (`resync`)."""


async def begin(host: Host, streams: Sequence[EventStream], head: int) -> None:
    """Put into each stream what it begins with, and what its agent missed. head: a rev that is committed.

    Every environment is read from the oldest position that one of its agents has, and no further back than `MOST`: so
    nobody waits for what another has missed.
    """
    resync = {stream: _place(stream, head) for stream in streams}
    since: dict[str, int] = {}
    for stream in streams:
        if stream.rev < head:
            since[stream.environment_id] = min(stream.rev, since.get(stream.environment_id, head))
    found = await host.vault.newest_changes(since, limit=MOST + 1)
    missed = {
        environment_id: [(change.rev, entry_event(change)) for change in changes]
        for environment_id, changes in found.items()
    }
    for stream in streams:
        mine = [told for told in missed.get(stream.environment_id, ()) if told[0] > stream.rev]
        if len(mine) > MOST:
            resync[stream], stream.rev, mine = "too_old", head, []
        stream.begin(resync=resync[stream])
        for rev, change in mine:
            stream.entry(rev, change)


def _place(stream: EventStream, head: int) -> str | None:
    """Set where a stream begins; return why its agent must read everything again, None when it need not."""
    at = parse_position(stream.resumes)
    stream.rev, stream.seq = head, 0
    if at is None:
        return "unknown" if stream.resumes else None
    if at.rev > head or at.seq > stream.last_command:
        return "unknown"  # of another database, or of this one before it was restored
    stream.rev, stream.seq = at
    return None
