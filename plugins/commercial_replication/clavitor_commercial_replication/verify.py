"""Proof that both vaults are equal, asked for by a person: which entries differ, and sending just those again.

Entries that wait to be sent differ of course, and are left out. What differs in two looks, at the same writes both
times, is no matter of timing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import sqlalchemy as sa

from clavitor_commercial_replication import asking, digests, queue, state, tables
from clavitor_commercial_replication.asking import SCANNED
from clavitor_commercial_replication.enlist import task_of
from clavitor_commercial_replication.fencing import COMMAND
from clavitor_commercial_replication.models import Version
from clavitor_commercial_replication.service import QUEUED
from clavitor_commercial_replication.words import as_role
from clavitor_host.api import AuditEntry, ClavitorError, Problem, Write, WriteSet

if TYPE_CHECKING:
    from clavitor_commercial_replication.link import Link
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Database, EntryCopy, Transaction

Kind = Literal["missing", "older", "other", "newer", "extra"]
"""What the backup has of an entry: nothing; an older write; other bytes under the same number; a newer write; one that
the primary does not have at all."""

KINDS: dict[Kind, str] = {
    "missing": "the backup does not have it",
    "older": "the backup has an older write",
    "other": "the backup has other content for the same write",
    "newer": "the backup has a newer write",
    "extra": "only the backup has it",
}

LOOKS = 5
"""Looks at most; two that agree are enough."""

PAUSE = 1.0
"""Seconds between two looks."""

GROUP = 64
"""Buckets whose versions are compared at a time: each group reads all versions once, and holds its own in memory."""

PAGE = 100
"""Entries sent again in one transaction."""


class Difference(NamedTuple):
    """An entry that differs. None: that POP does not have it."""

    entry_id: str
    kind: Kind
    ours: Version | None
    theirs: Version | None


class Comparison(NamedTuple):
    """What a comparison found. `buckets`: hashes that differed at the last look, also because of entries on their way.
    `unexplained`: hashes that differ though every entry is the same and nothing is on its way: one POP has them wrong.
    `waiting`: entries that wait to be sent; `quarantined`: those of them that the backup refuses; `oldest`: since when
    the oldest waits, in µs. `differences`: entries that differ and are not on their way."""

    pop: str
    buckets: int
    unexplained: int
    waiting: int
    quarantined: int
    oldest: int | None
    differences: tuple[Difference, ...]


class Repaired(NamedTuple):
    """What was done: `resent` as they are; `rewritten` with a new number; `removed` from the backup. `left`: entries
    that the backup has and this POP has not, or has older, untouched."""

    resent: list[str]
    rewritten: list[str]
    removed: list[str]
    left: list[str]


async def compare(service: Replication, link: Link) -> Comparison:
    """Compare the primary with its backup. Raises `ClavitorError` and `LinkError`."""
    before: set[Difference] = set()
    confirmed: set[Difference] = set()
    quiet: tuple[int, list[int]] | None = None
    unexplained = 0
    for number in range(LOOKS):
        if number:
            await service.host.clock.sleep(PAUSE)
        head = await service.host.vault.head_rev()
        about, buckets = await _buckets(service, link)
        found = await _look(service, link, buckets)
        confirmed = found & before
        if not buckets or (found and confirmed == found):
            break
        if not found:
            if await queue.depth(service.host.db):
                break
            if (head, buckets) == quiet:
                unexplained = len(buckets)
                break
        before, quiet = found, None if found else (head, buckets)
    async with service.host.db.snapshot() as tx:
        waiting, oldest = await queue.depth(tx), await queue.oldest(tx)
        refused = await tx.fetch_val(
            sa.select(sa.func.count()).select_from(tables.queue).where(tables.queue.c.quarantined_at.is_not(None))
        )
    listed = tuple(sorted(confirmed, key=lambda difference: difference.entry_id))
    return Comparison(about.pop, len(buckets), unexplained, waiting, refused, oldest, listed)


async def _buckets(service: Replication, link: Link) -> tuple[asking.About, list[int]]:
    """Return what the backup is, and the numbers of the buckets that differ."""
    known = await state.required(service.host.db)
    if known.role != "primary":
        raise ClavitorError(f"this POP is {as_role(known.role)}: compare on the primary, {asking.url_of(service)}")
    about = await asking.about_other(link)
    if about.role != "backup":
        other = as_role(about.role)
        raise ClavitorError(f"the other POP, {about.pop}, is no backup but {other}: there is nothing to compare")
    if about.reseeding:
        raise ClavitorError(f"the backup {about.pop} is being re-seeded: compare when that is done")
    return about, digests.differing(await state.buckets(service.host.db), about.buckets)


async def _look(service: Replication, link: Link, buckets: Sequence[int]) -> set[Difference]:
    found: set[Difference] = set()
    for first in range(0, len(buckets), GROUP):
        group = buckets[first : first + GROUP]
        async with service.host.db.snapshot() as tx:
            ours = {entry_id: version async for entry_id, version in _own(tx, group)}
            on_their_way = await _queued(tx)
        theirs = await asking.versions_of_other(link, group)
        on_their_way |= await _queued(service.host.db)
        for entry_id in (ours.keys() | theirs.keys()) - on_their_way:
            kind = _kind(ours.get(entry_id), theirs.get(entry_id))
            if kind is not None:
                found.add(Difference(entry_id, kind, ours.get(entry_id), theirs.get(entry_id)))
    return found


async def _own(tx: Transaction, buckets: Collection[int]) -> AsyncIterator[tuple[str, Version]]:
    after: str | None = ""
    while after is not None:
        page = await asking.versions_page(tx, buckets, after)
        for entry_id, epoch, rev, digest in page["versions"]:
            yield entry_id, Version(epoch, rev, bytes.fromhex(digest))
        after = page["next"]


async def _queued(source: Transaction | Database) -> set[str]:
    return {row["entry_id"] for row in await source.fetch_all(sa.select(tables.queue.c.entry_id))}


def _kind(ours: Version | None, theirs: Version | None) -> Kind | None:
    if ours is None:
        return "extra"
    if theirs is None:
        return "missing"
    if ours == theirs:
        return None
    mine, other = (ours.epoch, ours.rev), (theirs.epoch, theirs.rev)
    return "other" if mine == other else "older" if other < mine else "newer"


async def repair(
    service: Replication, differences: Sequence[Difference], *, discard: bool = False, by: str = COMMAND
) -> Repaired:
    """Have the backup be as this primary, by sending the entries that differ and no others.

    discard: also give up what only the backup has, or has newer: writes that this POP has lost, perhaps. Without it
    those are left alone.
    """
    done = Repaired([], [], [], [])
    as_they_are = [found for found in differences if found.kind in ("missing", "older")]
    for first in range(0, len(as_they_are), PAGE):
        done.resent.extend(await _resend(service, as_they_are[first : first + PAGE]))
    for found in differences:
        if found.kind in ("newer", "extra") and not discard:
            done.left.append(found.entry_id)
        elif found.kind in ("other", "newer", "extra"):
            which = done.removed if found.ours is None else done.rewritten
            (which if await _rewrite(service, found, by) else done.left).append(found.entry_id)
    if done.resent or done.rewritten or done.removed:
        payload = {name: len(getattr(done, name)) for name in Repaired._fields}
        await service.host.audit.note(
            AuditEntry("REPLICATION", "repair", by, "sent entries again that differed on the backup", payload=payload)
        )
    return done


async def _resend(service: Replication, page: Sequence[Difference]) -> list[str]:
    """Queue entries as they are; one that was written meanwhile is queued anyhow."""
    wanted = {found.entry_id: found.ours for found in page}
    async with service.host.db.transaction() as tx:
        await service.host.vault.lock(tx)
        rows = await tx.fetch_by_keys(tables.versions, ("entry_id", "epoch", "rev"), "entry_id", list(wanted))
        epochs = {
            row["entry_id"]: row["epoch"]
            for row in rows
            if (ours := wanted[row["entry_id"]]) is not None and (ours.epoch, ours.rev) == (row["epoch"], row["rev"])
        }
        copies = await service.host.vault.copies_of(tx, list(epochs))
        await queue.put(tx, [task_of(copy, epochs[copy.entry_id]) for copy in copies])
        await service.host.signals.send(tx, QUEUED)
    return list(wanted)


async def _rewrite(service: Replication, found: Difference, by: str) -> bool:
    """Write an entry over, so that it gets a number above the backup's; tell whether that could be done."""
    async with service.host.db.snapshot() as tx:
        copies = await service.host.vault.copies_of(tx, [found.entry_id])
    copy = copies[0] if copies else None
    if (copy.rev if copy else None) != (found.ours.rev if found.ours else None):
        return True  # written meanwhile, which is as good
    try:
        await service.host.entries.write(WriteSet(_over(found.entry_id, copy), by, "replication verify --repair"))
    except Problem as error:
        if error.status >= 500:
            raise
        return error.code == "precondition_failed"
    return True


def _over(entry_id: str, copy: EntryCopy | None) -> tuple[Write, ...]:
    """Return the writes that leave an entry as it is, but for its number; None: a tombstone."""
    if copy is not None and copy.deleted_at is None:
        return (Write("put", entry_id, copy.encrypted_data, if_match=frozenset({copy.rev})),)
    environment_id = copy.environment_id if copy is not None else None
    born = Write("put", entry_id, "", environment_id, keep_environment=False, if_none_match=True)
    return born, Write("delete", entry_id)


async def recount(service: Replication) -> bool:
    """Make the 256 hashes anew from what every entry is at; tell whether they were wrong."""
    async with service.host.db.transaction() as tx:
        await service.host.vault.lock(tx)
        counted, after = digests.NOTHING, ""
        while rows := await tx.fetch_all(
            sa.select(tables.versions.c.entry_id, tables.versions.c.digest)
            .where(tables.versions.c.entry_id > after)
            .order_by(tables.versions.c.entry_id)
            .limit(SCANNED)
        ):
            counted = digests.combined(counted, [(row["entry_id"], row["digest"]) for row in rows])
            after = rows[-1]["entry_id"]
        wrong = counted != await state.buckets(tx)
        await state.update(tx, buckets=counted)
    return wrong


async def settled(service: Replication, entry_ids: Collection[str], *, seconds: float) -> bool:
    """Wait until none of these entries waits to be sent any more; False when that takes too long, or one is refused."""
    clock = service.host.clock
    until = clock.monotonic() + seconds
    wanted = list(entry_ids)
    while True:
        async with service.host.db.snapshot() as tx:
            left = await tx.fetch_by_keys(tables.queue, ("entry_id",), "entry_id", wanted)
        if not left or clock.monotonic() > until:
            return not left
        await clock.sleep(0.2)
