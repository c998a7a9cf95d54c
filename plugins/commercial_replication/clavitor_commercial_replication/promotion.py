"""Handing the primary's role on: this POP becomes the primary, with an epoch above all that it knows of.

One transaction, behind the vault's head: before it every write is refused here, after it every older primary is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from clavitor_commercial_replication import asking, queue, state, tables
from clavitor_commercial_replication.fencing import BECAUSE, COMMAND
from clavitor_commercial_replication.models import Peer, Role, State
from clavitor_commercial_replication.reseed import UNCONFIRMED, forget_peer
from clavitor_host.api import AuditEntry, ClavitorError

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

SILENT = 30.0
"""Seconds that the primary must not have been heard for, unless forced."""

FIRST_EPOCH = 1
"""Of a primary that was never promoted: a backup that no primary has spoken to goes beyond it, too."""

PATIENCE = 5.0
"""Seconds for which the other POP is asked whether it is there."""

GENERATION = 1_000_000_000
"""A new primary's revs begin behind the next multiple of this: above every rev that the old one can have given to a
write that is lost. So no cursor of the change feed, no `If-Match` and no `X-Min-Rev` of a client means another write
than it did."""


class Preview(NamedTuple):
    """What promoting this POP would mean. Times in µs; None: not known.

    `pop`, `heard_at`, `told_head_rev`, `told_depth`: the other POP's name and its last word. `complete_rev`, `as_of`:
    everything up to there is here. `missing`: how many writes beyond it the other POP had made by its last word.
    `waiting`: writes of this POP that the other one does not have. `answers`: the other POP answers now, `other_role`.
    `obstacles`: why it is refused unless forced. `notes`: what the operator should know.
    """

    role: Role
    epoch: int
    new_epoch: int
    pop: str | None
    heard_at: int | None
    told_head_rev: int
    told_depth: int
    complete_rev: int
    as_of: int | None
    missing: int
    waiting: int
    answers: bool
    other_role: Role | None
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]


async def preview(service: Replication, *, ask: bool = True) -> Preview:
    """Return what promoting this POP would mean; nothing is changed. ask: whether the other POP is asked, too."""
    other = await _ask(service) if ask else None
    async with service.host.db.snapshot() as tx:
        known, peer, waiting = await state.required(tx), await state.peer(tx), await queue.depth(tx)
    return _judged(service, known, peer, waiting, other)


async def promote(service: Replication, *, force: bool = False, ask: bool = True, by: str = COMMAND) -> Preview:
    """Make this POP the primary, and return what that meant. Raises `ClavitorError` when something is in the way and
    `force` is not given; then nothing is changed."""
    host = service.host
    other = await _ask(service) if ask else None
    async with host.db.transaction() as tx:
        head = await host.vault.lock(tx)
        known, peer, waiting = await state.required(tx), await state.peer(tx), await queue.depth(tx)
        judged = _judged(service, known, peer, waiting, other)
        if judged.obstacles and not force:
            raise ClavitorError(f"{' '.join(judged.obstacles)} Nothing was changed; --force does it nevertheless")
        highest = max(head.rev, known.head_rev, peer.head_rev, other.head_rev if other else 0)
        begin = (highest // GENERATION + 1) * GENERATION
        await host.vault.advance(tx, begin)
        changes: dict[str, Any] = {}
        if known.reseed_from is not None:  # what the re-seed has not reached is taken stock of again, and sent
            await tx.execute(sa.delete(tables.versions).where(tables.versions.c.epoch == UNCONFIRMED))
            changes.update(reseed_from=None, reseed_after="", enlisted=False)
        await state.update(
            tx,
            role="primary",
            role_since=host.clock.now_us(),
            reason=None,
            epoch=judged.new_epoch,
            stream_id=uuid4().hex,
            head_rev=begin,
            **changes,
        )
        await forget_peer(tx)
        await host.signals.send(tx, state.CHANGED)
        payload = {
            "epoch": judged.new_epoch,
            "was": known.role,
            "forced": bool(judged.obstacles),
            "missing": judged.missing,
            "heard_at": judged.heard_at,
        }
        title = f"became the primary POP, epoch {judged.new_epoch}"
        await host.audit.record(tx, AuditEntry("REPLICATION", "promote", by, title, payload=payload))
    return judged


async def _ask(service: Replication) -> asking.About | None:
    """Return what the other POP says of itself now, None when it does not answer soon."""
    try:
        async with asyncio.timeout(PATIENCE), asking.linked(service) as link:
            return await asking.about_other(link)
    except (TimeoutError, ClavitorError):
        return None


def _judged(service: Replication, known: State, peer: Peer, waiting: int, other: asking.About | None) -> Preview:
    silent = None if peer.heard_at is None else max(0.0, (service.host.clock.now_us() - peer.heard_at) / 1_000_000)
    answers = other is not None and other.role == "primary"
    missing = max(0, peer.head_rev - peer.complete_rev) if known.role == "backup" else 0
    return Preview(
        role=known.role,
        epoch=known.epoch,
        new_epoch=max(known.epoch, FIRST_EPOCH, other.epoch if other else 0) + 1,
        pop=peer.pop,
        heard_at=peer.heard_at,
        told_head_rev=peer.head_rev,
        told_depth=peer.depth,
        complete_rev=peer.complete_rev,
        as_of=peer.as_of,
        missing=missing,
        waiting=waiting,
        answers=other is not None,
        other_role=other.role if other else None,
        obstacles=tuple(_obstacles(known, silent, answers=answers)),
        notes=tuple(_notes(known, peer, missing, waiting)),
    )


def _obstacles(known: State, silent: float | None, *, answers: bool) -> list[str]:
    found: list[str] = []
    if known.role == "primary":
        found.append("This POP is the primary already.")
    if known.role == "fenced":
        because = f" because {BECAUSE[known.reason]}" if known.reason else ""
        found.append(f"This POP is no backup: it stopped being the primary{because}.")
    if known.reseed_from is not None:
        found.append(f"This POP is only partly filled from {known.reseed_from}: its re-seed is not finished.")
    if answers:
        found.append("The other POP is the primary and answers right now: stop it first.")
    elif known.role == "backup" and silent is not None and silent < SILENT:
        found.append(
            f"The primary was heard {silent:.0f} seconds ago, so it may be at work: stop it, and wait "
            f"{SILENT:.0f} seconds."
        )
    return found


def _notes(known: State, peer: Peer, missing: int, waiting: int) -> list[str]:
    found: list[str] = []
    if known.role == "backup":
        if peer.heard_at is None:
            found.append("No primary has ever spoken to this POP: nobody here knows what is missing.")
        elif missing:
            found.append(
                f"When the primary last spoke, up to {missing:,} of its writes were not here yet. They are not here "
                "before the old primary is back; then `clavitor replication replay` there brings them here."
            )
        else:
            found.append("Everything that the primary had when it last spoke is here.")
        if peer.heard_at is not None:
            found.append("What it has written after that, nobody here can know.")
        if peer.mismatches:
            found.append("The last comparison found that the two vaults differ.")
    if known.role == "fenced":
        if waiting:
            found.append(f"{waiting:,} entries that only this POP has will be sent to the other one.")
        if known.reason == "behind":
            found.append("What only the backup has is given up: run `clavitor replication verify` here afterwards.")
        else:
            found.append("What the other POP has written since it became the primary is not here.")
    found.append("An older primary that hears of this turns read-only and keeps what only it has.")
    return found
