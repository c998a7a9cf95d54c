"""Audit rows of the category IDENTITY. Nothing secret ever goes into one: no password, no token, no cookie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clavitor_host.audit.models import AuditEntry
from clavitor_host.identity.grants import CHANGED
from clavitor_host.identity.models import Identity
from clavitor_host.identity.names import shown
from clavitor_host.identity.state import state_of

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.storage.database import Transaction

CATEGORY = "IDENTITY"


def entry(action: str, actor: str, *, title: str, payload: Mapping[str, Any], source: str) -> AuditEntry:
    """Return an IDENTITY row. source: the address the request came from, "" for a command."""
    return AuditEntry(CATEGORY, action, actor, shown(title, 200), payload=payload, source=source)


async def record(
    host: Host, tx: Transaction, by: Identity, action: str, *, title: str, payload: Mapping[str, Any]
) -> None:
    """Append an IDENTITY row in a transaction: the last thing done in it."""
    await host.signals.send(tx, CHANGED)
    await host.audit.record(tx, entry(action, by.actor, title=title, payload=payload, source=by.source))


async def note_bounded(
    host: Host, key: str, action: str, *, actor: str, title: str, payload: Mapping[str, Any], source: str
) -> None:
    """Append an IDENTITY row of its own, unless `key` wrote one within the last minute.

    The next row of that key tells by `times` how many it stands for.
    """
    times = state_of(host).notes.admit(f"{action} {key}", host.clock.monotonic())
    if times is not None:
        counted = payload if times == 1 else {**payload, "times": times}
        await host.audit.note(entry(action, actor, title=title, payload=counted, source=source))
