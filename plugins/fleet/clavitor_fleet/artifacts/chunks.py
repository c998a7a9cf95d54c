"""The bytes of artifacts in the database: written and deleted chunk by chunk, in short transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from clavitor_fleet.artifacts.models import CHUNK, Artifact
from clavitor_fleet.artifacts.space import require_room
from clavitor_fleet.artifacts.tables import artifact_chunks, artifact_uploads
from clavitor_host.api import Problem, StorageUnavailable, problem

if TYPE_CHECKING:
    from clavitor_host.api import Host, Transaction

IDLE: Final = 15 * 60
"""Seconds after which an upload to which nothing is added is given up: its process has ended."""

BATCH: Final = 4
"""Chunks deleted in one transaction: some 10 ms in which no entry is written."""

_NEEDED: Final = 16 * CHUNK
"""Bytes that must be free before a chunk is kept: its own, and what the journal grows by until all is written."""


async def begin(host: Host, upload_id: str) -> None:
    """Begin an upload. Raises a 507 when there is no room for anything."""
    async with host.db.transaction() as tx:
        await require_room(tx, _NEEDED)
        await tx.execute(sa.insert(artifact_uploads).values(id=upload_id, updated_at=host.clock.now_us()))


async def add_chunk(host: Host, upload_id: str, position: int, data: bytes) -> None:
    """Keep the next bytes of an upload. Raises a 507 when there is no room, 409 when the upload was given up."""
    async with host.db.transaction() as tx:
        await require_room(tx, _NEEDED)
        mine = sa.update(artifact_uploads).where(artifact_uploads.c.id == upload_id, artifact_uploads.c.updated_at > 0)
        if not await tx.execute(mine.values(updated_at=host.clock.now_us())):
            raise given_up()
        await tx.execute(sa.insert(artifact_chunks).values(artifact_id=upload_id, position=position, data=data))


async def complete(tx: Transaction, upload_id: str) -> None:
    """Make the bytes of an upload those of an artifact, in the transaction that adds it. Raises a 409."""
    mine = sa.delete(artifact_uploads).where(artifact_uploads.c.id == upload_id, artifact_uploads.c.updated_at > 0)
    if not await tx.execute(mine):
        raise given_up()


async def release(tx: Transaction, artifact_ids: Sequence[str]) -> None:
    """Give up the bytes of artifacts, in the transaction that deletes these; `sweep` deletes them soon after."""
    await tx.insert_many(artifact_uploads, [{"id": artifact_id, "updated_at": 0} for artifact_id in artifact_ids])


async def discard(host: Host, upload_id: str, *, unless_since: int | None = None) -> None:
    """Delete the bytes of what is no artifact. unless_since: µs; does nothing when bytes were added since."""
    wanted = artifact_uploads.c.id == upload_id
    if unless_since is not None:
        wanted &= artifact_uploads.c.updated_at < unless_since
    mine = artifact_chunks.c.artifact_id == upload_id
    first = sa.select(artifact_chunks.c.position).where(mine).order_by(artifact_chunks.c.position).limit(BATCH)
    while True:
        async with host.db.transaction() as tx:
            if not await tx.execute(sa.update(artifact_uploads).where(wanted).values(updated_at=0)):
                return
            deleted = await tx.execute(sa.delete(artifact_chunks).where(mine, artifact_chunks.c.position.in_(first)))
            if deleted < BATCH:
                await tx.execute(sa.delete(artifact_uploads).where(artifact_uploads.c.id == upload_id))
                return


async def sweep(host: Host) -> None:
    """Delete the bytes of deleted artifacts, and of uploads that stand still because their process has ended."""
    since = host.clock.now_us() - IDLE * 1_000_000
    standing = sa.select(artifact_uploads.c.id).where(artifact_uploads.c.updated_at < since)
    for row in await host.db.fetch_all(standing.order_by(artifact_uploads.c.updated_at)):
        await discard(host, row["id"], unless_since=since)


async def read(host: Host, artifact: Artifact) -> AsyncIterator[bytes]:
    """Yield the bytes of an artifact. Raises `StorageUnavailable` when it is deleted meanwhile."""
    for position in range(-(-artifact.size // CHUNK)):
        here = artifact_chunks.c.artifact_id == artifact.id, artifact_chunks.c.position == position
        data = await host.db.fetch_val(sa.select(artifact_chunks.c.data).where(*here))
        if data is None:
            raise StorageUnavailable("The artifact was deleted while it was read.")
        yield bytes(data)


def given_up() -> Problem:
    """Return the 409 for an upload that nothing came of for too long."""
    return problem(409, "upload_given_up", "The upload stood still for too long; begin again.")
