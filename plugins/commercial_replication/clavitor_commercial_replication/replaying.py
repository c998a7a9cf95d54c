"""On the new primary: taking writes that a former primary accepted and never got across.

Each becomes a regular write, with a rev of this POP, unless this POP has a later write of the entry: then it is a
conflict, which a person decides. What is here already is not written again, so a replay may be repeated.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from clavitor_commercial_replication import digests, rules, state, tables
from clavitor_commercial_replication.models import Batch, Item
from clavitor_host.api import Identity, Problem, Write, WriteSet

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import EntryCopy

Outcome = Literal["written", "same", "conflicts"]

ATTEMPTS = 5
"""How often an entry is looked at again because a client has just written it."""


async def take(service: Replication, identity: Identity, batch: Batch, *, overwrite: bool) -> dict[str, Any]:
    """Write what may be written. Return entry ids by outcome: `written`, `same` (no need), `conflicts` (untouched).

    batch: its epoch and stream are those that the other POP wrote last. Revs of one epoch are compared only when that
    is a stream which this POP has followed: two primaries of one epoch have given the same revs to different writes.
    """
    found: dict[str, list[str]] = {"written": [], "same": [], "conflicts": []}
    known = await state.required(service.host.db)
    followed = ((known.epoch, known.stream_id), (known.former_epoch, known.former_stream_id))
    common = batch.epoch if (batch.epoch, batch.stream_id) in followed else None
    last = {item.entry_id: item for item in batch.items}
    outcomes = await asyncio.gather(
        *(_take_one(service, identity, item, common, overwrite=overwrite) for item in last.values())
    )
    for entry_id, outcome in zip(last, outcomes, strict=True):
        found[outcome].append(entry_id)
    return found


async def _take_one(
    service: Replication, identity: Identity, item: Item, common: int | None, *, overwrite: bool
) -> Outcome:
    for _ in range(ATTEMPTS):
        async with service.host.db.snapshot() as tx:
            copies = await service.host.vault.copies_of(tx, [item.entry_id])
            rows = await tx.fetch_by_keys(tables.versions, ("epoch", "rev", "digest"), "entry_id", [item.entry_id])
        copy = copies[0] if copies else None
        if _is_same(item, copy):
            return "same"
        if copy is not None and not overwrite and not (rows and _is_later(item, rows[0], common)):
            return "conflicts"
        try:
            await service.host.entries.write(_write(identity, item, copy))
        except Problem as error:
            if error.code in ("precondition_failed", "entry_not_found", "entry_exists"):
                continue  # written meanwhile: look again
            if error.status >= 500:
                raise
            return "conflicts"  # something of this POP forbids it, such as an environment that is gone
        return "written"
    return "conflicts"


def _is_same(item: Item, copy: EntryCopy | None) -> bool:
    if item.deleted:
        return copy is None or copy.deleted_at is not None
    if copy is None or copy.deleted_at is not None:
        return False
    return copy.encrypted_data == item.encrypted_data and copy.environment_id == item.environment_id


def _is_later(item: Item, stored: Any, common: int | None) -> bool:
    """Tell whether the other POP's write came after the one that is here, in the numbers that both gave. common: the
    epoch of which both have the same revs."""
    assert item.epoch is not None and item.rev is not None
    if item.epoch == stored["epoch"] != common:
        return False
    digest = digests.digest_of(item.entry_id, item.epoch, item.rev, item.encrypted_data)
    ours = rules.Stamp(stored["epoch"], stored["rev"], 0)
    return rules.verdict(rules.Stamp(item.epoch, item.rev, 0), digest, ours, stored["digest"]) == "apply"


def _write(identity: Identity, item: Item, copy: EntryCopy | None) -> WriteSet:
    """Return the write, on the condition that the entry is still as it was seen."""
    lives = copy is not None and copy.deleted_at is None
    at = frozenset({copy.rev}) if copy is not None and lives else None
    if item.deleted:
        write = Write("delete", item.entry_id, if_match=at)
    else:
        write = Write(
            "put",
            item.entry_id,
            item.encrypted_data,
            item.environment_id,
            keep_environment=False,
            if_match=at,
            if_none_match=not lives,
        )
    return WriteSet((write,), identity.actor, identity.source)
