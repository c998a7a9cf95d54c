"""A primary that learns that it may not go on turns read-only, durably; and what then becomes of the writes that only
it has: listed, replayed to the new primary, or discarded. Nothing else ever drops them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from clavitor_commercial_replication import asking, queue, state, tables, wire
from clavitor_commercial_replication.batches import item_of
from clavitor_commercial_replication.models import Batch, FencedBecause, Operation, State, Task
from clavitor_commercial_replication.words import are, entries
from clavitor_host.api import AuditEntry, ClavitorError, log

if TYPE_CHECKING:
    from clavitor_commercial_replication.link import Link
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Transaction

SYSTEM = "system:replication"
COMMAND = "system"
"""The actor of what a command does."""

PAGE = 500
"""Queue rows that are listed or discarded at a time."""

BECAUSE: dict[FencedBecause, str] = {
    "superseded": "the other POP has become the primary",
    "behind": "the backup has writes that this vault does not have: it seems to be restored from an older copy",
}
"""Why, in words that follow `because`."""


async def fence(service: Replication, reason: FencedBecause, epoch: int, *, applied_max_rev: int | None = None) -> None:
    """Turn this primary read-only, durably. Nothing happens where it no longer applies. The watch tells the operator.

    epoch: the one that the other POP knows: for `superseded` a higher one than ours, for `behind` the same.
    applied_max_rev: for `behind`, the highest rev that the backup has.
    """
    host = service.host
    async with host.db.transaction() as tx:
        head = await host.vault.lock(tx)
        known = await state.required(tx)
        if known.role == "fenced" and epoch > known.epoch:  # so that a promotion here would go beyond it
            await state.update(tx, reason="superseded", epoch=epoch, stream_id=None, **own_stream(known))
            return
        if known.role != "primary" or not _applies(reason, epoch, known.epoch, head.rev, applied_max_rev):
            return
        waiting = await queue.depth(tx)
        changes: dict[str, Any] = {"role": "fenced", "role_since": host.clock.now_us(), "reason": reason}
        if epoch > known.epoch:
            changes.update(epoch=epoch, stream_id=None, **own_stream(known))
        await state.update(tx, **changes)
        await host.signals.send(tx, state.CHANGED)
        details = {"reason": reason, "epoch": known.epoch, "other_epoch": epoch, "unreplicated": waiting}
        title = f"became read-only because {BECAUSE[reason]}"
        await host.audit.record(tx, AuditEntry("REPLICATION", "fence", SYSTEM, title, payload=details))


def own_stream(known: State) -> dict[str, Any]:
    """Return columns of the state that keep which stream is followed now, {} when that is none."""
    return {} if known.stream_id is None else {"former_epoch": known.epoch, "former_stream_id": known.stream_id}


def next_step(reason: FencedBecause | None, waiting: int) -> str:
    """Return what the operator of a fenced POP does next, in one or two sentences."""
    if reason == "behind":
        return (
            "Promote the backup (`clavitor replication promote` there), then re-seed this POP; or, to give up what "
            "only the backup has, promote this one with --force."
        )
    if waiting:
        return (
            f"{entries(waiting)} written here {are(waiting)} not on the other POP: see "
            "`clavitor replication unreplicated`, then `replay` or `discard` what it lists, then `reseed`."
        )
    return (
        "No write waits here to be sent. Make this POP the other one's backup with `clavitor replication reseed`: it "
        "shows first what the other one lacks."
    )


class Unreplicated(NamedTuple):
    """A write that the other POP has not confirmed. `at`: when it was made, in µs; `size`: of its base64 text."""

    entry_id: str
    operation: Operation
    epoch: int
    rev: int
    at: int
    size: int
    environment_id: str | None
    error: str | None


async def unreplicated(service: Replication, *, after_rev: int = 0, limit: int = PAGE) -> list[Unreplicated]:
    """Return the writes that the other POP has not confirmed, by rev, the first one above `after_rev`."""
    return await _listed(service, tables.queue.c.rev > after_rev, limit)


async def refused(service: Replication, *, limit: int = PAGE) -> list[Unreplicated]:
    """Return the writes that the backup refuses for good, by rev."""
    return await _listed(service, tables.queue.c.quarantined_at.is_not(None), limit)


async def _listed(service: Replication, wanted: sa.ColumnElement[bool], limit: int) -> list[Unreplicated]:
    columns = ("entry_id", "method", "epoch", "rev", "queued_at", "size", "environment_id", "error")
    rows = await service.host.db.fetch_all(
        sa.select(*(tables.queue.c[name] for name in columns)).where(wanted).order_by(tables.queue.c.rev).limit(limit)
    )
    return [Unreplicated(*(row[name] for name in columns)) for row in rows]


class Replayed(NamedTuple):
    """What became of writes that were replayed. `same`: the new primary has the same content already. `conflicts`: it
    has a later write of its own; these stay here."""

    written: list[str]
    same: list[str]
    conflicts: list[str]


async def replay(
    service: Replication,
    entry_ids: Collection[str] | None,
    *,
    overwrite: bool = False,
    url: str | None = None,
    by: str = COMMAND,
) -> Replayed:
    """Have the new primary take writes that only this POP has, as regular writes; then forget them here.

    entry_ids: which, all when None. overwrite: also where the new primary has a later write of its own. It may be
    called again after any failure: what was taken before is found to be the same. Raises `ClavitorError`.
    """
    await _require_fenced(service, "replayed")
    wanted = await chosen(service, entry_ids)
    result = Replayed([], [], [])
    async with asking.linked(service, url) as link:
        for first in range(0, len(wanted), wire.MAX_ENTRIES):
            async for rows in _payloads(service, wanted[first : first + wire.MAX_ENTRIES]):
                await _replay_batch(service, link, rows, result, overwrite=overwrite, by=by)
    return result


async def _replay_batch(
    service: Replication,
    link: Link,
    rows: Sequence[Any],
    result: Replayed,
    *,
    overwrite: bool,
    by: str,
) -> None:
    sent = {row["entry_id"]: row["rev"] for row in rows}
    assert service.config.source_pop is not None
    known = await state.required(service.host.db)
    own = {"former_epoch": known.former_epoch, "former_stream_id": known.former_stream_id, **own_stream(known)}
    batch = Batch(
        source_pop=service.config.source_pop,
        items=[item_of(Task(*(row[name] for name in Task._fields))) for row in rows],
        epoch=max(1, own["former_epoch"] or 0, *(row["epoch"] for row in rows)),
        stream_id=own["former_stream_id"] or "unknown",
    )
    path = asking.REPLAY + ("?overwrite=true" if overwrite else "")
    answer = await link.post(path, json.loads(wire.encode(batch)))
    try:
        written, same, conflicts = ([str(name) for name in answer[key]] for key in ("written", "same", "conflicts"))
    except (TypeError, KeyError):
        raise asking.AskedInVain("the other POP's answer is not one that this version understands") from None
    told = [*written, *same, *conflicts]
    if len(set(told)) != len(told) or not sent.keys() >= set(told):
        raise asking.AskedInVain("the other POP answered for entries that it was not asked about")
    done = [(entry_id, sent[entry_id]) for entry_id in (*written, *same)]
    host = service.host
    async with host.db.transaction() as tx:
        await host.vault.lock(tx)
        await queue.clear(tx, done, host.clock.now_us())
        if done:
            await host.audit.record(tx, *(_noted("replay", "replayed", by, *pair) for pair in done))
    result.written.extend(written)
    result.same.extend(same)
    result.conflicts.extend(conflicts)


async def discard(service: Replication, entry_ids: Collection[str] | None, *, by: str = COMMAND) -> int:
    """Give up writes that only this POP has, all when `entry_ids` is None; return how many. The entries themselves
    stay until this POP is re-seeded. Raises `ClavitorError`."""
    host = service.host
    wanted = await chosen(service, entry_ids)
    for first in range(0, len(wanted), PAGE):
        page = wanted[first : first + PAGE]
        async with host.db.transaction() as tx:
            await host.vault.lock(tx)
            _check_fenced((await state.required(tx)).role, "discarded")
            await _forget(tx, page)
            await host.audit.record(tx, *(_noted("discard", "discarded", by, row.entry_id, row.rev) for row in page))
    if wanted:
        log.warning("Writes that only this POP had were discarded", entries=len(wanted), by=by)
    return len(wanted)


async def _forget(tx: Transaction, rows: Sequence[Unreplicated]) -> None:
    """Drop queue rows and their dirty flags; a row that is at another rev by now stays."""
    for row in rows:
        at = {"entry_id": row.entry_id, "rev": row.rev}
        clean = "UPDATE entries SET replication_dirty = FALSE WHERE entry_id = :entry_id AND rev = :rev"
        if await tx.execute("DELETE FROM replication_queue WHERE entry_id = :entry_id AND rev = :rev", at):
            await tx.execute(clean, at)


async def _require_fenced(service: Replication, done: str) -> None:
    _check_fenced((await state.required(service.host.db)).role, done)


def _check_fenced(role: str, done: str) -> None:
    if role == "primary":
        raise ClavitorError(
            f"this POP is the primary: what waits here is sent to the backup by itself, and is not to be {done}"
        )


async def chosen(service: Replication, entry_ids: Collection[str] | None) -> list[Unreplicated]:
    """Return the rows of these entries, by rev. Raises `ClavitorError` for one that has none."""
    await _require_fenced(service, "discarded")
    found: list[Unreplicated] = []
    while page := await unreplicated(service, after_rev=found[-1].rev if found else 0, limit=PAGE * 10):
        found.extend(page)
    if entry_ids is None:
        return found
    names = {row.entry_id for row in found}
    unknown = [entry_id for entry_id in entry_ids if entry_id not in names]
    if unknown:
        raise ClavitorError(f"no write of the entry {unknown[0]} waits here: see `clavitor replication unreplicated`")
    return [row for row in found if row.entry_id in set(entry_ids)]


async def payloads(service: Replication, rows: Sequence[Unreplicated]) -> dict[int, str | None]:
    """Return the encrypted data of writes, by rev."""
    revs = [row.rev for row in rows]
    found = await service.host.db.fetch_all(
        sa.select(tables.queue.c.rev, tables.queue.c.raw_payload).where(tables.queue.c.rev.in_(revs))
    )
    return {**dict.fromkeys(revs), **{row["rev"]: row["raw_payload"] for row in found}}


async def _payloads(service: Replication, wanted: Sequence[Unreplicated]) -> AsyncIterator[list[Any]]:
    """Give the queue rows with their data, in requests of at most `queue.MAX_BYTES` but one entry at least."""
    batch: list[Any] = []
    size = 0
    for row in wanted:
        if batch and size + row.size > queue.MAX_BYTES:
            yield batch
            batch, size = [], 0
        found = await service.host.db.fetch_one(
            sa.select(tables.queue).where(tables.queue.c.entry_id == row.entry_id, tables.queue.c.rev == row.rev)
        )
        if found is not None:
            batch.append(found)
            size += row.size
    if batch:
        yield batch


def _applies(reason: FencedBecause, epoch: int, own_epoch: int, head_rev: int, applied_max_rev: int | None) -> bool:
    if reason == "superseded":
        return epoch > own_epoch
    return epoch >= own_epoch and (applied_max_rev is None or applied_max_rev > head_rev)


def _noted(action: str, done: str, by: str, entry_id: str, rev: int) -> AuditEntry:
    title = f"{done} a write that the other POP did not have"
    return AuditEntry("REPLICATION", action, by, title, entry_id, {"rev": rev})
