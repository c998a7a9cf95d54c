"""Commands that wait, into the event streams of their agents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from clavitor_fleet.agents.commands import waiting_commands
from clavitor_fleet.agents.events import command_event

if TYPE_CHECKING:
    from clavitor_fleet.agents.stream import EventStream
    from clavitor_host.api import Host

_COMMANDS = 200
"""Commands that one query reads."""
_AGENTS = 100
"""Agents whose commands one query reads."""


async def tell_commands(
    host: Host,
    behind: set[EventStream],
    *,
    send: Callable[[Iterable[EventStream]], None],
    when_drained: Callable[[EventStream], None],
) -> None:
    """Put the commands that wait into the streams of their agents, as far as there is room.

    behind: the streams whose agents have more commands than they were told. send: sends what streams hold.
    when_drained: called once there is room again in a stream that had none for all of them.
    """
    while behind:
        some = {stream.agent_id: stream for stream in list(behind)[:_AGENTS]}
        told = {agent_id: stream.seq for agent_id, stream in some.items()}
        rows = await waiting_commands(host, told, limit=_COMMANDS)
        full: set[EventStream] = set()
        for row in rows:
            stream = some[row["agent_id"]]
            if stream not in full and stream.takes_commands:
                stream.command(row["seq"], command_event(row))
            else:
                full.add(stream)
        for stream in full:
            stream.when_drained(when_drained)
        if len(rows) < _COMMANDS:
            done = set(some.values())
            for stream in done - full:
                stream.seq = max(stream.seq, stream.last_command)
        else:
            done = full
        send({some[row["agent_id"]] for row in rows})
        behind -= {stream for stream in some.values() if stream in done or stream.seq >= stream.last_command}
