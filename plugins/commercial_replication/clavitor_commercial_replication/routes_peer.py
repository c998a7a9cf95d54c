"""What the other POP may ask besides taking writes: which writes are here, all entries, and to take back what it wrote.

`asking` and `reseed` ask the first two, `fencing.replay` the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clavitor_commercial_replication import asking, digests, replaying, state, tables, wire
from clavitor_commercial_replication.body import read_json
from clavitor_commercial_replication.models import Batch, Item
from clavitor_commercial_replication.peers import pop_of
from clavitor_commercial_replication.service import service_of
from clavitor_commercial_replication.words import as_role
from clavitor_host.api import Parameter, Problem, Reply, Request, endpoint, invalid_field, problem

if TYPE_CHECKING:
    from quart import Blueprint

    from clavitor_commercial_replication.models import State
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import EntryCopy, Transaction

PAGE = 100
"""Entries of one page, at most: what a request may have, too."""

PAGE_BYTES = 4 * 1024 * 1024
"""Base64 text of one page, at most, unless a single entry has more."""

MAX_AFTER = 256
"""Characters of a cursor."""

_TAG = "replication"
_AFTER = Parameter("after", "Begin behind this entry id.")


def add(blueprint: Blueprint) -> None:
    """Add the routes to the blueprint of `routes`."""
    blueprint.get("/versions")(_versions)
    blueprint.get("/entries")(_entries)
    blueprint.post("/replay")(_replay)


@endpoint(
    action="peer",
    summary="Say what this POP is, or which writes it has",
    tag=_TAG,
    errors=(409,),
    parameters=(Parameter("buckets", "Numbers of hash buckets, 0 to 255, joined by commas."), _AFTER),
)
async def _versions(request: Request) -> dict[str, Any]:
    """Without `buckets`: role, epoch, stream, head and hashes, of one moment. With: a page of versions."""
    service = _service(request)
    buckets = _buckets(request)
    async with service.host.db.snapshot() as tx:
        if buckets is None:
            return asking.encode_about(await asking.about_self(service, tx))
        return await asking.versions_page(tx, buckets, _after(request))


@endpoint(
    action="peer",
    summary="Give the primary's entries and tombstones",
    tag=_TAG,
    errors=(409,),
    parameters=(
        _AFTER,
        Parameter("count", "`true`: `depth` says how many there are behind `after`.", enum=("true",)),
    ),
)
async def _entries(request: Request) -> Reply:
    """Give a page in the form of a request to apply, by entry id; an empty one is the end. Only a primary does."""
    service = _service(request)
    after = _after(request)
    async with service.host.db.snapshot() as tx:
        known = _require_primary(await state.required(tx))
        copies = await service.host.vault.copies(tx, after=after, limit=PAGE, max_bytes=PAGE_BYTES)
        left = None
        if request.query.get("count") == "true":
            left = await tx.fetch_val("SELECT count(*) FROM entries WHERE entry_id > :after", {"after": after})
        items = await _items(tx, known, copies)
    batch = Batch(
        source_pop=service.config.source_pop or "",
        items=items,
        epoch=known.epoch,
        stream_id=known.stream_id,
        head_rev=known.head_rev,
        depth=left,
    )
    return Reply(200, wire.encode(batch))


@endpoint(
    action="peer",
    summary="Take writes that only a former primary has",
    tag=_TAG,
    errors=(409, 413),
    max_body=wire.MAX_BODY,
    parameters=(Parameter("overwrite", "`true`: also where this POP has a later write.", enum=("true",)),),
)
async def _replay(request: Request) -> dict[str, Any]:
    """Write them as a client would, so they get revs of this POP; only a primary does."""
    service = _service(request)
    assert request.identity is not None
    _require_primary(await state.required(service.host.db))
    batch = wire.parse(await read_json(request))
    pop = pop_of(request.identity)
    if batch.source_pop != pop:
        detail = f"source_pop is {batch.source_pop}, but the credential is that of {pop}."
        raise Problem(403, "pop_mismatch", detail, extra={"field": "source_pop"})
    if batch.epoch is None:
        raise invalid_field("epoch", "a number")
    overwrite = request.query.get("overwrite") == "true"
    return await replaying.take(service, request.identity, batch, overwrite=overwrite)


def _service(request: Request) -> Replication:
    """Return the service. Raises 409 where replication is off."""
    service = service_of(request.host)
    if not service.on:
        raise problem(409, "replication_off", "This POP takes no part in replication.")
    return service


def _require_primary(known: State) -> State:
    if known.role != "primary":
        about = {"epoch": known.epoch, "role": known.role, "stream_id": known.stream_id}
        raise problem(409, "not_a_primary", f"This POP is not the primary; it is {as_role(known.role)}.", **about)
    return known


async def _items(tx: Transaction, known: State, copies: Sequence[EntryCopy]) -> list[Item]:
    """Return entries as they go over the wire. One that is not accounted for yet will be, with this epoch."""
    ids = [copy.entry_id for copy in copies]
    rows = await tx.fetch_by_keys(tables.versions, ("entry_id", "epoch"), "entry_id", ids)
    epochs = {row["entry_id"]: row["epoch"] for row in rows}
    return [
        Item(
            entry_id=copy.entry_id,
            operation="delete" if copy.deleted_at is not None else "update",
            encrypted_data=copy.encrypted_data,
            timestamp=copy.updated_at // 1_000_000,
            epoch=epochs.get(copy.entry_id, known.epoch),
            rev=copy.rev,
            environment_id=copy.environment_id,
            created_at=copy.created_at,
            updated_at=copy.updated_at,
        )
        for copy in copies
    ]


def _after(request: Request) -> str:
    after = request.query.get("after", "")
    if len(after) > MAX_AFTER or "\x00" in after:
        raise invalid_field("after", "an entry id")
    return after


def _buckets(request: Request) -> list[int] | None:
    text = request.query.get("buckets")
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > digests.BUCKETS or not all(
        part.isascii() and part.isdigit() and len(part) <= 3 and int(part) < digests.BUCKETS for part in parts
    ):
        raise invalid_field("buckets", f"numbers from 0 to {digests.BUCKETS - 1}, joined by commas")
    return [int(part) for part in parts]
