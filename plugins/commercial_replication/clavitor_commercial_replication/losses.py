"""What a re-seed would lose: entries whose last write is here, and nowhere else for all that both POPs know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clavitor_commercial_replication import asking, digests, state
from clavitor_commercial_replication.models import Version

if TYPE_CHECKING:
    from clavitor_commercial_replication.link import Link
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Transaction

GROUP = 64
"""Buckets whose versions are compared at a time."""

HELD = 200
"""Entries looked at at a time for what they hold."""

_OWN = """
SELECT entries.entry_id, entries.rev, entries.deleted_at, COALESCE(versions.epoch, 0) AS epoch, versions.digest
FROM entries LEFT JOIN replication_versions AS versions
    ON versions.entry_id = entries.entry_id AND versions.rev = entries.rev
WHERE entries.entry_id > :after ORDER BY entries.entry_id LIMIT :limit
"""
_DISCARDS = "SELECT entry_id, payload FROM audit_log WHERE category = 'REPLICATION' AND action = 'discard'"


async def lacking(service: Replication, link: Link, about: asking.About) -> set[str]:
    """Return the entries whose last write is here and not at the other POP, but for those that were discarded here.

    What the other POP has written since in their place does not count. Raises `LinkError`, `AskedInVain`.
    """
    found: dict[str, int] = {}
    buckets = digests.differing(about.buckets, await state.buckets(service.host.db))
    if not (await state.required(service.host.db)).enlisted:
        buckets = list(range(digests.BUCKETS))
    for first in range(0, len(buckets), GROUP):
        group = buckets[first : first + GROUP]
        theirs = await asking.versions_of_other(link, group)
        after: str | None = ""
        while after is not None:
            async with service.host.db.snapshot() as tx:
                rows = await tx.fetch_all(_OWN, {"after": after, "limit": asking.SCANNED})
                wanted = frozenset(group)
                own = [row for row in rows if digests.bucket_of(row["entry_id"]) in wanted]
                found.update(await _lost_of(service, tx, own, theirs))
            after = rows[-1]["entry_id"] if len(rows) == asking.SCANNED else None
    return found.keys() - await _discarded(service, found)


async def _lost_of(
    service: Replication, tx: Transaction, own: Sequence[Any], theirs: Mapping[str, Version]
) -> dict[str, int]:
    """Return the revs of those of these entries that the other POP lacks, by id."""
    suspects: dict[str, int] = {}
    for row in own:
        other = theirs.get(row["entry_id"])
        if other is None:
            if row["deleted_at"] is None:
                suspects[row["entry_id"]] = row["rev"]
        elif (row["epoch"], row["rev"]) >= (other.epoch, other.rev) and row["digest"] != other.digest:
            suspects[row["entry_id"]] = row["rev"]
    lost: dict[str, int] = {}
    ids = list(suspects)
    for first in range(0, len(ids), HELD):
        for copy in await service.host.vault.copies_of(tx, ids[first : first + HELD]):
            key, other = copy.entry_id, theirs.get(copy.entry_id)
            if other is None or other.digest != digests.digest_of(key, other.epoch, other.rev, copy.encrypted_data):
                lost[key] = suspects[key]  # else the same content, written twice
    return lost


async def _discarded(service: Replication, found: Mapping[str, int]) -> set[str]:
    """Return those of these entries, by id and rev, that an operator has given up already."""
    if not found:
        return set()
    rows = await service.host.db.fetch_all(_DISCARDS)
    return {row["entry_id"] for row in rows if json.loads(row["payload"])["rev"] == found.get(row["entry_id"])}
