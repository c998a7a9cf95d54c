"""What an answer of the backup changes here: the queue, the dirty flags, and what is known of the backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clavitor_commercial_replication import queue, state
from clavitor_commercial_replication.models import Answer, Batch, Task

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Transaction

PATIENCE = 0.01
"""Seconds that it may wait for a client's write, to share its commit, where nobody waits for it."""


class Confirmed(NamedTuple):
    """`acks`: `(entry id, rev)`; `at`: µs; `stream`: the epoch and stream that it is of; `peer`: columns of
    `replication_peer`, while this POP is the primary of that stream."""

    acks: Sequence[tuple[str, int]]
    at: int
    stream: tuple[int | None, str | None]
    peer: Mapping[str, Any]


class Confirming:
    """Notes answers; those that come together share a commit."""

    def __init__(self, service: Replication) -> None:
        self._host = service.host

    async def note(self, done: Sequence[Task], batch: Batch, answer: Answer, at: int, *, patience: float) -> None:
        """Forget what the backup has, and note how it is, durably. at: when it answered, in µs; patience: seconds that
        this may wait for company."""
        acks = [(task.entry_id, task.rev) for task in done]
        confirmed = Confirmed(acks, at, (batch.epoch, batch.stream_id), _peer(batch, answer, at))
        await self._host.writer.submit(self._record, confirmed, patience=patience)

    async def _record(self, tx: Transaction, confirmed: Sequence[Confirmed]) -> Sequence[None]:
        await self._host.vault.lock(tx)
        acks = [ack for one in confirmed for ack in one.acks]
        await queue.clear(tx, acks, confirmed[-1].at)
        known = await state.required(tx)
        stream = (known.epoch, known.stream_id) if known.role == "primary" else None
        peer = {name: value for one in confirmed if one.stream == stream for name, value in one.peer.items()}
        if peer:
            await state.update_peer(tx, **peer)
        return [None] * len(confirmed)


def has_lost(batch: Batch, answer: Answer) -> bool:
    """Tell whether the backup has less of this stream than it had confirmed before the request was made. While it is
    being re-seeded it does not say; when both were found equal, it has lost nothing."""
    if batch.confirmed_rev is None or answer.complete_rev is None or answer.epoch != batch.epoch:
        return False
    if batch.buckets is not None and answer.differing is not None and not answer.differing:
        return False
    return answer.complete_rev < batch.confirmed_rev or answer.applied_max_rev < (batch.confirmed_max_rev or 0)


def _peer(batch: Batch, answer: Answer, at: int) -> dict[str, Any]:
    peer: dict[str, Any] = {
        "heard_at": at,
        "acked_at": at,
        "applied_max_rev": answer.applied_max_rev,
        "last_error": None,
        "last_error_at": None,
    }
    if batch.tokens_digest is not None:
        peer["tokens_digest"] = answer.tokens_digest
    for name in ("complete_rev", "pop", "audit_head"):
        if (value := getattr(answer, name)) is not None:
            peer[name] = value
    if batch.buckets is not None and answer.differing is not None:
        peer |= {"compared_at": at, "mismatches": len(answer.differing)}
    return peer
