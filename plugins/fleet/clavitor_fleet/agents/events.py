"""What event streams carry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from clavitor_fleet.agents.stream import event

if TYPE_CHECKING:
    from clavitor_host.api import EntryChange, Row


def entry_event(change: EntryChange) -> bytes:
    """Return the event that an entry has changed: what it holds now, the agent reads itself."""
    data = {
        "entry_id": change.entry_id,
        "rev": change.rev,
        "deleted": change.deleted,
        "updated_at": change.updated_at,
    }
    return event("entry", json.dumps(data, separators=(",", ":")).encode())


def command_event(row: Row) -> bytes:
    """Return the event of a command. row: of `agent_commands`."""
    told = {key: row[key] for key in ("id", "seq", "type", "created_at", "expires_at")}
    head = json.dumps(told, separators=(",", ":"))
    return event("command", f'{head[:-1]},"payload":{row["payload"]}}}'.encode())
