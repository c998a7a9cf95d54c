"""Audit rows of the category FLEET. Nothing secret ever goes into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clavitor_host.api import AuditEntry, Identity

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction

CATEGORY = "FLEET"
_LONGEST_TITLE = 200

SYSTEM = Identity(kind="user", actor="system", via="system")
"""Who does what nobody asked for: jobs."""


async def record(
    host: Host, tx: Transaction, by: Identity, action: str, *, title: str, payload: Mapping[str, Any]
) -> None:
    """Append a row in a transaction: the last thing done in it. action: such as `create_app`."""
    await host.audit.record(tx, entry_of(by, action, title=title, payload=payload))


def entry_of(by: Identity, action: str, *, title: str, payload: Mapping[str, Any]) -> AuditEntry:
    """Return a row, for who appends several in one go."""
    return AuditEntry(CATEGORY, action, by.actor, title[:_LONGEST_TITLE], None, payload, by.source)
