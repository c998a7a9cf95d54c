"""How replication stands, read from the database, and what is wrong with it in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from clavitor_commercial_replication import state
from clavitor_commercial_replication.fencing import BECAUSE, next_step
from clavitor_commercial_replication.models import FencedBecause, Role
from clavitor_commercial_replication.words import are, entries, lasting

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

_WAITING = """
SELECT (SELECT count(*) FROM replication_queue) AS depth,
    (SELECT queued_at FROM replication_queue ORDER BY rev LIMIT 1) AS oldest_at,
    (SELECT count(*) FROM replication_queue WHERE quarantined_at IS NOT NULL) AS quarantined,
    (SELECT queued_at FROM replication_queue WHERE quarantined_at IS NULL ORDER BY rev LIMIT 1) AS sendable_at,
    (SELECT count(*) FROM replicated_tokens) AS tokens
"""
"""By indexes alone, however long the queue is: rows come in the order of their revs."""

OVERDUE = 5
"""Intervals of comparison without one after which something is wrong."""

MISSED = 3
"""Heartbeat intervals of a primary without a success after which it is held up."""


class Facts(NamedTuple):
    """What the database says. Seconds are ages; `_at` are µs since the epoch; None: never, or not known.

    `pop`: this one. `peer`, `url`: the other one. `last_success_at`: when the other POP last confirmed or sent
    something. `sendable_at`: when the oldest write was made that is to be sent and not quarantined.
    `lag_seconds`: on a primary the age of that write, 0 when there is none; on a
    backup the age of the moment up to which it has everything. `told_head_rev`, `told_depth`: what the primary last
    said. `compared_at`, `mismatches`: the last comparison of the hashes, and how many of the 256 differed.
    `compare_within`: seconds within which there should have been another. `success_within`: the same of successes of a
    primary. `mirrored_tokens`: of the other POP, which are good here.
    """

    at: int
    pop: str
    role: Role
    role_since: int
    reason: FencedBecause | None
    epoch: int
    stream_id: str | None
    enlisted: bool
    reseed_from: str | None
    peer: str | None
    url: str | None
    heard_at: int | None
    last_success_at: int | None
    head_rev: int
    depth: int
    oldest_dirty_seconds: float
    sendable_at: int | None
    lag_seconds: float
    quarantined: int
    told_head_rev: int
    told_depth: int
    complete_rev: int
    as_of: int | None
    compared_at: int | None
    mismatches: int
    last_error: str | None
    last_error_at: int | None
    compare_within: float = float("inf")
    success_within: float = float("inf")
    mirrored_tokens: int = 0

    @property
    def overdue(self) -> bool:
        """Whether the hashes have not been compared for too long, though the POPs talk to each other."""
        if self.compared_at is None or self.role == "fenced" or self.reseed_from is not None:
            return False
        return _age(self.at, self.compared_at) > self.compare_within

    @property
    def agree(self) -> bool | None:
        """Whether both vaults have the same hashes; None when that is not known by now."""
        if self.compared_at is None or self.role == "fenced":
            return None
        if self.mismatches:
            return False
        return None if self.quarantined or self.overdue else True


async def facts_of(service: Replication) -> Facts | None:
    """Return how replication stands, None where it is off."""
    if not service.on:
        return None
    async with service.host.db.snapshot() as tx:
        known = await state.read(tx)
        if known is None:
            return None
        peer = await state.peer(tx)
        waiting = await tx.fetch_one(_WAITING)
    assert waiting is not None
    now = service.host.clock.now_us()
    if known.role == "backup":
        lag = _age(now, known.role_since if peer.as_of is None else peer.as_of)
    else:
        lag = _age(now, waiting["sendable_at"])
    return Facts(
        at=now,
        pop=service.config.source_pop or "",
        role=known.role,
        role_since=known.role_since,
        reason=known.reason,
        epoch=known.epoch,
        stream_id=known.stream_id,
        enlisted=known.enlisted,
        reseed_from=known.reseed_from,
        peer=peer.pop,
        url=service.config.backup_url or (service.config.primary_location if known.role != "primary" else None),
        heard_at=peer.heard_at,
        last_success_at=peer.heard_at if known.role == "backup" else peer.acked_at,
        head_rev=known.head_rev,
        depth=waiting["depth"],
        oldest_dirty_seconds=_age(now, waiting["oldest_at"]),
        sendable_at=waiting["sendable_at"],
        lag_seconds=lag,
        quarantined=waiting["quarantined"],
        told_head_rev=peer.head_rev,
        told_depth=peer.depth,
        complete_rev=peer.complete_rev,
        as_of=peer.as_of,
        compared_at=peer.compared_at,
        mismatches=peer.mismatches,
        last_error=peer.last_error,
        last_error_at=peer.last_error_at,
        compare_within=max(OVERDUE * service.config.compare_interval, service.config.stalled_after),
        success_within=MISSED * service.config.heartbeat_interval,
        mirrored_tokens=waiting["tokens"],
    )


async def report(service: Replication) -> dict[str, Any]:
    """Return how replication stands, for `clavitor status`, telemetry and scripts."""
    facts = await facts_of(service)
    if facts is None:
        return {"on": False}
    found = problems(facts, service.config.stalled_after)
    return {
        "on": True,
        "healthy": not found,
        "pop": facts.pop,
        "role": facts.role,
        "role_since": facts.role_since,
        "reason": facts.reason,
        "epoch": facts.epoch,
        "stream": facts.stream_id,
        "peer": {"pop": facts.peer, "url": facts.url, "heard_at": facts.heard_at},
        "last_success_at": facts.last_success_at,
        "head_rev": facts.head_rev,
        "depth": facts.depth,
        "oldest_dirty_seconds": round(facts.oldest_dirty_seconds, 3),
        "lag_seconds": round(facts.lag_seconds, 3),
        "quarantined": facts.quarantined,
        "told": {
            "head_rev": facts.told_head_rev,
            "depth": facts.told_depth,
            "complete_rev": facts.complete_rev,
            "as_of": facts.as_of,
        },
        "hashes": {
            "compared_at": facts.compared_at,
            "differing": facts.mismatches,
            "equal": facts.agree,
        },
        "mirrored_tokens": facts.mirrored_tokens,
        "reseed_from": facts.reseed_from,
        "last_error": facts.last_error,
        "last_error_at": facts.last_error_at,
        "problems": found,
    }


async def trouble(service: Replication) -> str | None:
    """Return what is wrong, None when nothing is."""
    facts = await facts_of(service)
    found = problems(facts, service.config.stalled_after) if facts is not None else []
    return " ".join(found) or None


def problems(facts: Facts, stalled_after: float) -> list[str]:
    """Return a sentence or two on each thing that is wrong, and what to do; the worst first.

    stalled_after: seconds of silence that are too long.
    """
    if facts.role == "fenced":
        because = f" because {BECAUSE[facts.reason]}" if facts.reason else ""
        return [f"This POP takes no writes{because}. {next_step(facts.reason, facts.depth)}"]
    found = _of_primary(facts, stalled_after) if facts.role == "primary" else _of_backup(facts, stalled_after)
    if facts.mismatches:
        found.append(
            f"The two vaults are not equal: {facts.mismatches} of 256 hashes differed when they were last compared. "
            "See which entries with `clavitor replication verify` on the primary; --repair mends what can be mended."
        )
    elif facts.compared_at is None and facts.reseed_from is None:
        found.append("The two vaults have not been compared yet, so it is not known that they are equal.")
    elif facts.overdue:
        found.append(uncompared(facts))
    return found


def held_up(facts: Facts, stalled_after: float) -> str | None:
    """Return a sentence on what is no problem yet and not well either; None when there is no such thing."""
    late = facts.role == "primary" and _age(facts.at, facts.last_success_at) > facts.success_within
    if facts.last_error is None and not late:
        return None
    return f"Held up just now: it counts as a problem after {lasting(stalled_after)}."


def uncompared(facts: Facts) -> str:
    """Return that the last comparison is too long ago, and why that may be."""
    assert facts.compared_at is not None
    since = f"The two vaults have not been compared for {lasting(_age(facts.at, facts.compared_at))}"
    if facts.quarantined:
        return f"{since}: hashes cannot be compared while the backup refuses {entries(facts.quarantined)}."
    return f"{since}, so it is not known that they are equal: see `clavitor replication verify` on the primary."


def _of_primary(facts: Facts, stalled_after: float) -> list[str]:
    if facts.url is None:
        return ["Nothing is replicated: the configuration does not say where the backup is (backup_url)."]
    found: list[str] = []
    waits = f" {entries(facts.depth)} wait{'s' if facts.depth == 1 else ''} here." if facts.depth else ""
    error = f" The last error was: {_sentence(facts.last_error)}" if facts.last_error else ""
    if facts.last_success_at is None:
        found.append(f"The backup has not answered yet.{waits}{error}")
    elif (silent := _age(facts.at, facts.last_success_at)) > stalled_after:
        found.append(f"Nothing has got through to the backup for {lasting(silent)}.{waits}{error}")
    elif facts.lag_seconds > stalled_after:
        found.append(f"The backup is {lasting(facts.lag_seconds)} behind.{waits}{error}")
    if facts.quarantined:
        some = f"{entries(facts.quarantined)} {are(facts.quarantined)}"
        found.append(
            f"{some} refused by the backup and not sent any more. `clavitor replication unreplicated` tells why; then "
            "`clavitor replication requeue` offers them again."
        )
    if not facts.enlisted:
        found.append("Entries from before replication was on are still being counted in.")
    return found


def _of_backup(facts: Facts, stalled_after: float) -> list[str]:
    found: list[str] = []
    if facts.reseed_from is not None:
        found.append(
            f"This POP is being filled from {facts.reseed_from} and is not complete. If nobody is at it, run "
            "`clavitor replication reseed` again: it goes on where it was."
        )
    if facts.heard_at is None:
        found.append("The primary has not been heard yet.")
    elif (silent := _age(facts.at, facts.heard_at)) > stalled_after:
        found.append(f"The primary has not been heard for {lasting(silent)}.")
    elif facts.reseed_from is None and facts.lag_seconds > stalled_after:
        found.append(f"This POP may be up to {lasting(facts.lag_seconds)} behind the primary.")
    return found


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _age(now: int, at: int | None) -> float:
    return 0.0 if at is None else max(0, now - at) / 1_000_000
