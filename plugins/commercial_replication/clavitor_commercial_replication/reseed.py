"""Filling this POP anew from the primary: every entry, its version too, page after page.

At the start every version is set to `UNCONFIRMED`, below any that the primary can have, with a digest of zeros, which
changes no bucket. So from then on each entry of the primary replaces what is here, whether a page brings it or the
live stream, and the buckets are exact at every moment. In the end what the primary does not have is still unconfirmed,
and is removed. How far it has come is saved with every page, so it goes on after a crash at any point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from clavitor_commercial_replication import asking, digests, queue, rules, state, tables, wire
from clavitor_commercial_replication.fencing import COMMAND
from clavitor_commercial_replication.losses import lacking
from clavitor_commercial_replication.models import Batch, Item, State
from clavitor_commercial_replication.words import are, as_role
from clavitor_commercial_replication.words import entries as entries_in_words
from clavitor_host.api import AuditEntry, ClavitorError, EntryCopy, Problem, entries

if TYPE_CHECKING:
    from clavitor_commercial_replication.link import Link
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Transaction

UNCONFIRMED = -1
"""The epoch of an entry that the primary may not have: a re-seed has not come to it yet."""

_BLANK = bytes(digests.DIGEST)

REMOVED = 200
"""Entries removed in one transaction."""

SHOWN = 10
"""Entries that are named because their last write would be gone."""

SETTLE = 30.0
"""Seconds for which the last writes are waited for before both POPs are compared."""

Progress = Callable[[int, int], None]


class Plan(NamedTuple):
    """What a re-seed is about to do. `about`: the primary. `own_entries`: that live here now. `resuming`: an earlier
    one goes on, behind `after`. `lost`: entries, some of them by id in `some_lost`, whose last write is here and not
    at the primary: it is gone afterwards. Writes that were discarded do not count."""

    url: str
    about: asking.About
    own_entries: int
    resuming: bool
    after: str
    lost: int = 0
    some_lost: tuple[str, ...] = ()


class Reseeded(NamedTuple):
    """What a re-seed did. `entries`: taken from the primary, tombstones too. `removed`: entries that the primary
    does not have. `equal`: whether both are equal now; None when that could not be told."""

    entries: int
    removed: int
    equal: bool | None


async def plan(service: Replication, link: Link, url: str) -> Plan:
    """Return what a re-seed from the POP at `url` would do. Raises `ClavitorError` when it may not be."""
    async with service.host.db.snapshot() as tx:
        known, waiting, peer = await state.required(tx), await queue.depth(tx), await state.peer(tx)
        own = await tx.fetch_val("SELECT live_entries FROM vault_head WHERE id = 1")
    _check_here(known, waiting)
    about = await asking.about_other(link)  # after what is known of it here, so that it can only be ahead of that
    _check_other(service, known, about)
    same_stream = (known.epoch, known.stream_id) == (about.epoch, about.stream_id)
    if known.reseed_from is None and same_stream and peer.applied_max_rev > about.head_rev:
        raise ClavitorError(
            f"the primary is at rev {about.head_rev}, and this POP has its writes up to {peer.applied_max_rev}: the "
            "primary has lost them, perhaps it was restored from an older copy, and they would be lost here as well. "
            "Promote this POP instead"
        )
    if known.reseed_from is not None and same_stream:
        return Plan(url, about, own, resuming=True, after=known.reseed_after)
    lost = await lacking(service, link, about)
    return Plan(url, about, own, resuming=False, after="", lost=len(lost), some_lost=tuple(sorted(lost)[:SHOWN]))


async def reseed(
    service: Replication,
    link: Link,
    planned: Plan,
    progress: Progress | None = None,
    *,
    give_up: bool = False,
    by: str = COMMAND,
) -> Reseeded:
    """Make this POP a copy of the primary. progress: called with the entries done and all of this run. give_up: even
    when the primary lacks writes that are here.

    Raises `ClavitorError` and `LinkError`; calling it again goes on where it was.
    """
    if planned.lost and not give_up:
        raise ClavitorError(
            f"the primary lacks the last write of {entries_in_words(planned.lost)}, "
            f"{planned.some_lost[0]} first: it would be gone for good"
        )
    if not planned.resuming:
        await _begin(service, planned, by)
    done, total, after = 0, 0, planned.after
    complete_rev = 0
    while True:
        page = await _page(link, after, count=done == 0)
        _require_same(page, planned.about)
        if done == 0:
            total = page.depth or 0
            complete_rev = 0 if planned.resuming else page.head_rev or 0
        if not page.items:
            break
        after = page.items[-1].entry_id
        await _take(service, planned, page, after)
        done += len(page.items)
        if progress is not None:
            progress(done, max(done, total))
    removed = await _finish(service, planned, done, complete_rev, by)
    return Reseeded(done, removed, await _compared(service, link))


def _check_here(known: State, waiting: int) -> None:
    if known.role == "primary":
        raise ClavitorError("this POP is the primary: it is the other one that is re-seeded")
    if waiting:
        raise ClavitorError(
            f"{entries_in_words(waiting)} written here {are(waiting)} not on the other POP, and would be lost: see "
            "`clavitor replication unreplicated`, and `replay` or `discard` what it lists first; --give-up does not "
            "cover that"
        )


def _check_other(service: Replication, known: State, about: asking.About) -> None:
    if about.role != "primary":
        raise ClavitorError(
            f"the other POP is not the primary but {as_role(about.role)}: promote it first, or there is nothing to "
            "copy from"
        )
    if about.pop == service.config.source_pop:
        raise ClavitorError(f"the other POP is called {about.pop} as this one is: the URL leads back here")
    if about.pop not in service.config.authorized_primaries:
        raise ClavitorError(
            f"authorized_primaries does not name {about.pop} here, so nothing could be replicated afterwards: add it"
        )
    if about.epoch < known.epoch:
        raise ClavitorError(
            f"the other POP is at epoch {about.epoch}, and this one knows of {known.epoch}: it is no longer the primary"
        )
    if about.epoch == known.epoch and known.stream_id not in (None, about.stream_id):
        raise ClavitorError(
            f"the other POP is another primary of the same epoch {about.epoch}: if it is the right one, give it a new "
            "epoch first with `clavitor replication promote --force` there"
        )


async def drop_unconfirmed(tx: Transaction) -> bytes:
    """Forget which write every unconfirmed entry is at, and return the buckets without them. The caller writes those.

    Most digests are zeros, which change no bucket; whatever is there is taken out.
    """
    unconfirmed = tables.versions.c.epoch == UNCONFIRMED
    rows = await tx.fetch_all(
        sa.select(tables.versions.c.entry_id, tables.versions.c.digest).where(
            unconfirmed, tables.versions.c.digest != _BLANK
        )
    )
    await tx.execute(sa.delete(tables.versions).where(unconfirmed))
    return digests.combined(await state.buckets(tx), [(row["entry_id"], row["digest"]) for row in rows])


async def _begin(service: Replication, planned: Plan, by: str) -> None:
    """Become the primary's backup, with every entry unconfirmed."""
    host, about = service.host, planned.about
    unconfirmed = sa.select(
        entries.c.entry_id,
        sa.literal(UNCONFIRMED, sa.BigInteger),
        entries.c.rev,
        sa.literal(_BLANK, sa.LargeBinary),
    )
    async with host.db.transaction() as tx:
        head = await host.vault.lock(tx)
        known = await state.required(tx)
        _check_here(known, await queue.depth(tx))
        _check_other(service, known, about)
        now = host.clock.now_us()
        await tx.execute(sa.delete(tables.versions))
        await tx.execute(sa.insert(tables.versions).from_select(["entry_id", "epoch", "rev", "digest"], unconfirmed))
        await state.update(
            tx,
            role="backup",
            role_since=now if known.role != "backup" else known.role_since,
            reason=None,
            epoch=about.epoch,
            stream_id=about.stream_id,
            head_rev=head.rev,
            enlisted=True,
            reseed_from=planned.url,
            reseed_after="",
            buckets=digests.NOTHING,
            former_epoch=None,
            former_stream_id=None,
            promoted_complete_rev=None,
            promoted_from_rev=None,
        )
        await forget_peer(tx, pop=about.pop, heard_at=now, head_rev=about.head_rev, depth=about.depth)
        await host.signals.send(tx, state.CHANGED)
        payload = {"from": about.pop, "epoch": about.epoch}
        await host.audit.record(
            tx, AuditEntry("REPLICATION", "reseed_begin", by, f"begins to be filled from {about.pop}", payload=payload)
        )


async def forget_peer(tx: Transaction, **known: Any) -> None:
    """Have nothing be known of what the other POP has, or has said, but its name and when it was heard; and `known`."""
    nothing: dict[str, Any] = {
        "acked_at": None,
        "head_rev": 0,
        "depth": 0,
        "complete_rev": 0,
        "applied_max_rev": 0,
        "as_of": None,
        "audit_head": None,
        "tokens_digest": None,
        "compared_at": None,
        "mismatches": 0,
        "last_error": None,
        "last_error_at": None,
    }
    await state.update_peer(tx, **{**nothing, **known})


async def _page(link: Link, after: str, *, count: bool) -> Batch:
    params = {"after": after, **({"count": "true"} if count else {})}
    try:
        return wire.parse(await link.get(asking.ENTRIES, params))
    except Problem as error:
        raise asking.AskedInVain(f"the other POP sent entries that cannot be used: {error.detail}") from None


def _require_same(page: Batch, about: asking.About) -> None:
    if (page.epoch, page.stream_id) != (about.epoch, about.stream_id):
        raise ClavitorError("the other POP has been promoted anew meanwhile: run the command again")


async def _take(service: Replication, planned: Plan, page: Batch, after: str) -> None:
    """Take one page, and note how far it goes."""
    host = service.host
    async with host.db.transaction() as tx:
        await host.vault.lock(tx)
        await _require_under_way(tx, planned)
        ids = [item.entry_id for item in page.items]
        rows = await tx.fetch_by_keys(tables.versions, ("entry_id", "epoch", "rev", "digest"), "entry_id", ids)
        stored = {row["entry_id"]: row for row in rows}
        fresh = [item for item in page.items if _is_fresh(item, stored.get(item.entry_id))]
        moved = await _make_room(service, tx, fresh)
        await host.vault.place(tx, [_copy(item) for item in fresh])
        made = [_version(item) for item in fresh]
        await tx.insert_many(tables.versions, made, upsert_on=("entry_id",), update=("epoch", "rev", "digest"))
        gone = [(item.entry_id, stored[item.entry_id]["digest"]) for item in fresh if item.entry_id in stored]
        moved += [*gone, *((row["entry_id"], row["digest"]) for row in made)]
        head = await host.vault.lock(tx)
        await state.update(
            tx,
            reseed_after=after,
            head_rev=head.rev,
            buckets=digests.combined(await state.buckets(tx), moved),
        )
        peer = await state.peer(tx)
        highest = max(peer.applied_max_rev, *(item.rev or 0 for item in page.items))
        await state.update_peer(tx, heard_at=host.clock.now_us(), applied_max_rev=highest)


def _is_fresh(item: Item, stored: Any) -> bool:
    """Tell whether an entry of the primary replaces what is stored: unless that came from it later."""
    if stored is None:
        return True
    incoming = rules.Stamp(item.epoch, item.rev, item.updated_at or 0)
    digest = _version(item)["digest"]
    return rules.verdict(incoming, digest, rules.Stamp(stored["epoch"], stored["rev"], 0), stored["digest"]) != "exists"


async def _make_room(service: Replication, tx: Transaction, fresh: Sequence[Item]) -> list[tuple[str, bytes]]:
    """Give other entries that have one of these revs a new one, and return what that changes in the buckets."""
    incoming = {item.rev: item.entry_id for item in fresh if item.rev is not None}
    holders = await service.host.vault.holders(tx, list(incoming))
    others = [entry_id for rev, entry_id in holders.items() if incoming[rev] != entry_id]
    if not others:
        return []
    moved: list[tuple[str, bytes]] = []
    await service.host.vault.advance(tx, max(incoming))  # so that the new revs are none of these
    renumbered = await service.host.vault.renumber(tx, others)
    copies = {copy.entry_id: copy for copy in await service.host.vault.copies_of(tx, others)}
    taken = {item.entry_id for item in fresh}
    rows = await tx.fetch_by_keys(tables.versions, ("entry_id", "epoch", "digest"), "entry_id", others)
    for row in rows:
        entry_id, rev = row["entry_id"], renumbered[row["entry_id"]]
        digest = row["digest"]
        if row["epoch"] != UNCONFIRMED and entry_id not in taken:
            digest = digests.digest_of(entry_id, row["epoch"], rev, copies[entry_id].encrypted_data)
            moved += [(entry_id, row["digest"]), (entry_id, digest)]
        await tx.execute(
            sa.update(tables.versions).where(tables.versions.c.entry_id == entry_id).values(rev=rev, digest=digest)
        )
    return moved


async def _finish(service: Replication, planned: Plan, done: int, complete_rev: int, by: str) -> int:
    """Remove what the primary does not have, and be an ordinary backup; return how many entries that were.

    complete_rev: every write up to it is here; 0 when that is not known.
    """
    host = service.host
    unconfirmed = (
        sa.select(tables.versions.c.entry_id, tables.versions.c.digest)
        .where(tables.versions.c.epoch == UNCONFIRMED)
        .limit(REMOVED)
    )
    removed = 0
    while True:
        async with host.db.transaction() as tx:
            await host.vault.lock(tx)
            await _require_under_way(tx, planned)
            rows = await tx.fetch_all(unconfirmed)
            ids = [row["entry_id"] for row in rows]
            await host.vault.remove(tx, ids)
            for entry_id in ids:
                await tx.execute(sa.delete(tables.versions).where(tables.versions.c.entry_id == entry_id))
            removed += len(ids)
            if ids:
                counted = [(row["entry_id"], row["digest"]) for row in rows]
                await state.update(tx, buckets=digests.combined(await state.buckets(tx), counted))
                continue
            await state.update(tx, reseed_from=None, reseed_after="")
            peer = await state.peer(tx)
            await state.update_peer(tx, complete_rev=max(peer.complete_rev, complete_rev))
            await host.signals.send(tx, state.CHANGED)
            payload = {"from": planned.about.pop, "epoch": planned.about.epoch, "entries": done, "removed": removed}
            title = f"was filled from {planned.about.pop}"
            await host.audit.record(tx, AuditEntry("REPLICATION", "reseed", by, title, payload=payload))
        return removed


async def _require_under_way(tx: Transaction, planned: Plan) -> None:
    known = await state.required(tx)
    ours = (planned.about.epoch, planned.about.stream_id)
    if known.role != "backup" or known.reseed_from is None or (known.epoch, known.stream_id) != ours:
        raise ClavitorError("this POP's role has changed meanwhile, or another re-seed has ended: look at the status")


async def _compared(service: Replication, link: Link) -> bool | None:
    """Return whether both POPs are equal, once nothing waits to be sent any more; None when that takes too long."""
    clock = service.host.clock
    until = clock.monotonic() + SETTLE
    while True:
        about = await asking.about_other(link)
        if await _agree(service, about):
            return True
        if clock.monotonic() > until:
            return False if about.depth == 0 else None
        await clock.sleep(0.5)


async def _agree(service: Replication, about: asking.About) -> bool:
    """Tell whether this POP has the primary's hashes, and note it when it has."""
    host = service.host
    async with host.db.transaction() as tx:
        await host.vault.lock(tx)
        known = await state.required(tx)
        equal = not digests.differing(about.buckets, await state.buckets(tx))
        if equal and (known.role, known.epoch, known.stream_id) == ("backup", about.epoch, about.stream_id):
            await state.update_peer(tx, compared_at=host.clock.now_us(), mismatches=0)
    return equal


def _version(item: Item) -> dict[str, Any]:
    assert item.epoch is not None and item.rev is not None
    digest = digests.digest_of(item.entry_id, item.epoch, item.rev, item.encrypted_data)
    return {"entry_id": item.entry_id, "epoch": item.epoch, "rev": item.rev, "digest": digest}


def _copy(item: Item) -> EntryCopy:
    assert item.rev is not None
    at = item.updated_at if item.updated_at is not None else item.timestamp * 1_000_000
    return EntryCopy(
        entry_id=item.entry_id,
        rev=item.rev,
        encrypted_data=item.encrypted_data,
        environment_id=item.environment_id,
        created_at=item.created_at if item.created_at is not None else at,
        updated_at=at,
        deleted_at=at if item.deleted else None,
    )
