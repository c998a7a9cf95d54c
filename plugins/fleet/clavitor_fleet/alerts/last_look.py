"""When events were last looked at: kept in the database, so that whichever process looks next goes on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from clavitor_fleet.alerts.tables import alert_looks

if TYPE_CHECKING:
    from clavitor_fleet.alerts.models import Rule
    from clavitor_host.api import Host

LONGEST_GAP: Final = 300_000_000
"""µs: what happened while nobody looked for longer than that is not looked for."""
ARRIVAL: Final = 2_000_000
"""µs that an event may take from its time to the store."""


async def last_look(host: Host) -> int | None:
    """Return when events were last looked at, in µs since the epoch; None for never."""
    found = await host.db.fetch_val(sa.select(alert_looks.c.looked_at))
    return None if found is None else int(found)


async def note_look(host: Host, now: int) -> None:
    """Remember that everything before `now` was looked at."""
    async with host.db.transaction() as tx:
        row = {"id": 1, "looked_at": now}
        await tx.insert_many(alert_looks, [row], upsert_on=("id",), update=("looked_at",))


def since(rule: Rule, now: int, last: int | None) -> int:
    """Return from when on a rule looks, in µs. Its window, and for events also what has come since the last look:
    looks are never exactly `window` apart. A rule that was changed begins anew."""
    window = now - rule.window_s * 1_000_000
    if rule.kind != "event" or last is None:
        return window
    begins = rule.updated_at - rule.window_s * 1_000_000
    return min(window, max(last - ARRIVAL, now - LONGEST_GAP, begins))
