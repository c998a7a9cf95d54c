"""What a write of an entry does to agents: it wakes those of the environments concerned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clavitor_fleet.environments.service import check_named

if TYPE_CHECKING:
    from clavitor_host.api import Change, Host, Transaction

ENTRIES: Final = "fleet.entries"
"""The signal that entries of an environment have changed. Payload: its id."""


async def note_change(host: Host, tx: Transaction, change: Change) -> None:
    """Take part in an entry's write: the environment that it comes into must be there (422), and listeners hear of it
    after the commit."""
    if change.environment_id is not None and change.entered_environment:
        tx.before_commit(check_named, (change.environment_id, change.entry_id))
    for environment_id in (change.environment_id, change.left_environment_id):
        if environment_id is not None:
            await host.signals.send(tx, ENTRIES, environment_id)
