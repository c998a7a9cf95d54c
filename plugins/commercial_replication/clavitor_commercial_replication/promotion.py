"""Handing the primary's role on: this POP becomes the primary, with an epoch above all that it knows of.

One transaction, behind the vault's head: before it every write is refused here, after it every older primary is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import uuid4

from clavitor_commercial_replication import asking, mirror, queue, state
from clavitor_commercial_replication.fencing import BECAUSE, COMMAND, own_stream
from clavitor_commercial_replication.link import LinkError, Unreachable
from clavitor_commercial_replication.models import Peer, Role, State
from clavitor_commercial_replication.reseed import drop_unconfirmed, forget_peer
from clavitor_commercial_replication.startup import gaps
from clavitor_commercial_replication.words import entries, tokens
from clavitor_host.api import AuditEntry, ClavitorError

if TYPE_CHECKING:
    from clavitor_commercial_replication.config import ReplicationConfig
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Transaction

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
    everything up to there is here. `missing`: how many entries waited at the other POP by its last word.
    `waiting`: writes of this POP that the other one does not have. `compared_at`, `mismatches`: the last comparison of
    both vaults' hashes in this epoch. `tokens`: of the other POP, which go on being good here. `answers`: the other POP
    answers now, with `other_role`, or with `refusal` instead. `obstacles`: why it is refused unless forced. `notes`:
    what the operator should know.
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
    compared_at: int | None
    mismatches: int
    tokens: int
    answers: bool
    other_role: Role | None
    refusal: str | None
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]


class Asked(NamedTuple):
    """What asking the other POP came to: what it says of itself, or how it refuses to; neither when it is away."""

    about: asking.About | None = None
    refusal: str | None = None


class _Own(NamedTuple):
    """What this POP knows, of one moment."""

    state: State
    peer: Peer
    waiting: int
    tokens: int

    @classmethod
    async def read(cls, tx: Transaction) -> Self:
        tokens = len(await mirror.listed(tx))
        return cls(await state.required(tx), await state.peer(tx), await queue.depth(tx), tokens)


async def preview(service: Replication, *, ask: bool = True) -> Preview:
    """Return what promoting this POP would mean; nothing is changed. ask: whether the other POP is asked, too."""
    other = await _ask(service) if ask else Asked()
    async with service.host.db.snapshot() as tx:
        own = await _Own.read(tx)
    return _judged(service, own, other)


async def promote(service: Replication, *, force: bool = False, ask: bool = True, by: str = COMMAND) -> Preview:
    """Make this POP the primary, and return what that meant. Raises `ClavitorError` when something is in the way and
    `force` is not given; then nothing is changed."""
    host = service.host
    other = await _ask(service) if ask else Asked()
    async with host.db.transaction() as tx:
        head = await host.vault.lock(tx)
        own = await _Own.read(tx)
        known, peer = own.state, own.peer
        judged = _judged(service, own, other)
        if judged.obstacles and not force:
            raise ClavitorError(f"{' '.join(judged.obstacles)} Nothing was changed; --force does it nevertheless")
        highest = max(head.rev, known.head_rev, peer.head_rev, other.about.head_rev if other.about else 0)
        begin = (highest // GENERATION + 1) * GENERATION
        await host.vault.advance(tx, begin)
        changes: dict[str, Any] = own_stream(known)
        if known.role != "primary":  # a primary has every rev that it has given
            complete = head.rev if known.role == "fenced" else 0 if known.reseed_from is not None else peer.complete_rev
            changes.update(promoted_complete_rev=complete, promoted_from_rev=begin)
        if known.reseed_from is not None:  # what the re-seed has not reached is taken stock of again, and sent
            changes.update(reseed_from=None, reseed_after="", enlisted=False, buckets=await drop_unconfirmed(tx))
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


async def _ask(service: Replication) -> Asked:
    """Ask the other POP what it is. Only one that cannot be reached, or does not answer soon, counts as away."""
    try:
        async with asyncio.timeout(PATIENCE), asking.opened(service) as link:
            return Asked(await asking.about_other(link))
    except TimeoutError:
        return Asked()
    except LinkError as error:
        return Asked(refusal=error.detail if _is_there(error) else None)
    except asking.AskedInVain as error:
        return Asked(refusal=str(error))
    except ClavitorError:  # the configuration does not say where it is
        return Asked()


def _is_there(error: LinkError) -> bool:
    """Tell whether it was a POP that answered: a 502 may well come from what stands before one that is gone."""
    if not isinstance(error, Unreachable):
        return True
    return error.status in (200, 429, 500) or "code" in error.body


def _judged(service: Replication, own: _Own, other: Asked) -> Preview:
    known, peer = own.state, own.peer
    silent = None if peer.heard_at is None else max(0.0, (service.host.clock.now_us() - peer.heard_at) / 1_000_000)
    missing = peer.depth if known.role == "backup" else 0
    return Preview(
        role=known.role,
        epoch=known.epoch,
        new_epoch=max(known.epoch, FIRST_EPOCH, other.about.epoch if other.about else 0) + 1,
        pop=peer.pop,
        heard_at=peer.heard_at,
        told_head_rev=peer.head_rev,
        told_depth=peer.depth,
        complete_rev=peer.complete_rev,
        as_of=peer.as_of,
        missing=missing,
        waiting=own.waiting,
        compared_at=peer.compared_at,
        mismatches=peer.mismatches,
        tokens=own.tokens,
        answers=other.about is not None or other.refusal is not None,
        other_role=other.about.role if other.about else None,
        refusal=other.refusal,
        obstacles=tuple(_obstacles(known, peer, silent, other)),
        notes=tuple(_notes(service.config, own, missing)),
    )


def _obstacles(known: State, peer: Peer, silent: float | None, other: Asked) -> list[str]:
    found: list[str] = []
    if known.role == "primary":
        found.append("This POP is the primary already.")
    if known.role == "fenced":
        because = f" because {BECAUSE[known.reason]}" if known.reason else ""
        found.append(f"This POP is no backup: it stopped being the primary{because}.")
    if known.reseed_from is not None:
        found.append(f"This POP is only partly filled from {known.reseed_from}: its re-seed is not finished.")
    elif known.role == "backup" and peer.compared_at is None:
        found.append("This POP was never compared with its primary in this epoch: nobody knows what is missing here.")
    elif known.role == "backup" and peer.mismatches:
        found.append(f"The last comparison found that the two vaults differ, in {peer.mismatches} of 256 hashes.")
    if other.refusal is not None:
        found.append(f"The other POP answers right now, but does not say whether it is the primary. {other.refusal}")
    elif other.about is not None and other.about.role == "primary":
        found.append("The other POP is the primary and answers right now: stop it first.")
    elif known.role == "backup" and silent is not None and silent < SILENT:
        found.append(
            f"The primary was heard {silent:.0f} seconds ago, so it may be at work: stop it, and wait "
            f"{SILENT:.0f} seconds."
        )
    return found


def _notes(config: ReplicationConfig, own: _Own, missing: int) -> list[str]:
    known, peer = own.state, own.peer
    found: list[str] = []
    if known.role == "backup":
        if peer.heard_at is None:
            found.append("No primary has ever spoken to this POP: nobody here knows what is missing.")
        elif missing:
            found.append(
                f"When the primary last spoke, up to {missing:,} of its writes {'was' if missing == 1 else 'were'} not "
                "here yet. What is missing is not here before the old primary is back; then `clavitor replication "
                "replay` there brings it here."
            )
        elif peer.complete_rev < peer.head_rev or peer.compared_at is None or peer.mismatches:
            found.append("Whether everything is here that the primary had when it last spoke, nobody knows.")
        else:
            found.append("Everything that the primary had when it last spoke is here.")
        if peer.heard_at is not None:
            found.append("What it has written after that, nobody here can know.")
    if known.role == "fenced":
        if own.waiting:
            found.append(f"{entries(own.waiting)} that only this POP has will be sent to the other one.")
        if known.reason == "behind":
            found.append("What only the backup has is given up: run `clavitor replication verify` here afterwards.")
        else:
            found.append("What the other POP has written since it became the primary is not here.")
    if own.tokens:
        found.append(
            f"{tokens(own.tokens)} of the other POP {'goes' if own.tokens == 1 else 'go'} on being good for entries "
            "here, for writing too: see `clavitor replication tokens`."
        )
    if config.backup_url is None:
        found.append("backup_url is not set here: nothing will be replicated to anywhere before it is.")
    found += [text for text in gaps(config) if "backup_url" not in text]
    found.append("An older primary that hears of this turns read-only and keeps what only it has.")
    return found
