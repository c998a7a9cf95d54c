"""Takes an upload in: hashed as it comes, kept chunk by chunk, an artifact only when all of it is right."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from clavitor_fleet.artifacts import chunks
from clavitor_fleet.artifacts.models import CHUNK, Announced, Artifact
from clavitor_fleet.artifacts.pruning import prune
from clavitor_fleet.artifacts.service import add_artifact, assert_version_free
from clavitor_fleet.artifacts.space import insufficient_storage
from clavitor_host.api import StorageUnavailable, log, new_id, problem

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity

STATE = "fleet.uploads"
"""Key in `host.state` of the tasks that clean up behind failed uploads."""

FULL = "storage_full"


async def upload(
    host: Host, app_id: str, announced: Announced, pieces: AsyncIterator[bytes], *, requested_by: Identity
) -> Artifact:
    """Take an artifact in and make room for it among the older ones of its app.

    Raises, and keeps nothing: 400 `size_mismatch`, 422 `hash_mismatch`, 507 `insufficient_storage`, 409 for a version
    that is there, a 404 when the app is gone, and whatever `pieces` raises.
    """
    await assert_version_free(host.db, app_id, announced.version)
    upload_id = new_id(host)
    try:
        await chunks.begin(host, upload_id)
        size, sha256 = await _receive(host, upload_id, pieces)
        if announced.size not in (None, size):
            raise problem(400, "size_mismatch", f"Content-Length says {announced.size} bytes, {size} came.")
        if sha256 != announced.sha256:
            detail = f"X-Content-SHA256 says {announced.sha256}, what came has {sha256}."
            raise problem(422, "hash_mismatch", detail, field="X-Content-SHA256", sha256=sha256)
        made = Artifact(upload_id, app_id, announced.version, sha256, size, host.clock.now_us(), requested_by.actor)
        await add_artifact(host, made, requested_by=requested_by)
    except BaseException as error:
        await _clean_up(host, upload_id)
        if isinstance(error, StorageUnavailable) and error.code == FULL:
            raise insufficient_storage() from error
        raise
    try:
        await prune(host, [app_id])
    except Exception as error:  # noqa: BLE001 - the artifact is there; the next upload or the applier prunes
        log.exception("Older artifacts could not be pruned", error, app_id=app_id)
    return made


async def _receive(host: Host, upload_id: str, pieces: AsyncIterator[bytes]) -> tuple[int, str]:
    """Keep what comes; return its size in bytes and its hash."""
    digest = hashlib.sha256()
    waiting = bytearray()
    size = position = 0
    async for piece in pieces:
        digest.update(piece)
        size += len(piece)
        waiting += piece
        while len(waiting) >= CHUNK:
            await chunks.add_chunk(host, upload_id, position, bytes(waiting[:CHUNK]))
            del waiting[:CHUNK]
            position += 1
    if waiting:
        await chunks.add_chunk(host, upload_id, position, bytes(waiting))
    return size, digest.hexdigest()


async def _clean_up(host: Host, upload_id: str) -> None:
    """Delete what came of an upload, to the end also when the caller is cancelled. What fails here the sweep does."""

    async def discard() -> None:
        try:
            await chunks.discard(host, upload_id)
        except Exception as error:  # noqa: BLE001 - a full disk, a database that is away
            log.warning("An upload that failed is deleted later", upload=upload_id, error=str(error))

    task = asyncio.ensure_future(discard())
    tasks: set[asyncio.Task[None]] = host.state.setdefault(STATE, set())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    await asyncio.shield(task)
