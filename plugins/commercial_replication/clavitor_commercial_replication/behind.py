"""Whether this primary has lost writes that its backup has: it was started on an older copy of its vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_commercial_replication import asking, tables
from clavitor_commercial_replication.digests import BUCKETS
from clavitor_commercial_replication.link import LinkError, Unreachable
from clavitor_commercial_replication.models import Version
from clavitor_host.api import ClavitorError

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

GROUP = 64
"""Buckets whose versions are asked for at a time."""


async def is_forked(service: Replication, epoch: int) -> bool:
    """Ask the backup which writes of `epoch`, this POP's own, it has; tell whether there is one that this POP never
    made. Raises `LinkError`.

    It costs a look at every version on both sides, so ask only when there is a reason to.
    """
    try:
        async with asking.linked(service) as link:
            for first in range(0, BUCKETS, GROUP):
                theirs = await asking.versions_of_other(link, range(first, first + GROUP))
                if await _lacks(service, {key: one for key, one in theirs.items() if one.epoch == epoch}):
                    return True
    except LinkError:
        raise
    except ClavitorError as error:
        raise Unreachable("unreadable", f"The other POP does not say what it has: {error}.") from None
    return False


async def _lacks(service: Replication, theirs: dict[str, Version]) -> bool:
    async with service.host.db.snapshot() as tx:
        rows = await tx.fetch_by_keys(tables.versions, ("entry_id", "epoch", "rev", "digest"), "entry_id", list(theirs))
    ours = {row["entry_id"]: Version(row["epoch"], row["rev"], row["digest"]) for row in rows}
    for entry_id, other in theirs.items():
        own = ours.get(entry_id)
        if own is None or own[:2] < other[:2] or (own[:2] == other[:2] and own.digest != other.digest):
            return True
    return False
