"""The bytes that an agent's deployment runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING

from clavitor_host.client.connection import answer, unreachable
from clavitor_host.client.errors import ServerUnavailable

if TYPE_CHECKING:
    from clavitor_host.client.connection import Connection
    from clavitor_host.client.values import Artifact


async def download(
    connection: Connection, agent_id: str, token: str, artifact: Artifact
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes, piece by piece. After the last it raises `ServerUnavailable`, unless they are the artifact's.

    Raises `ServerUnavailable` when the connection is cut, and `Refused`.
    """
    import httpx

    path = f"/api/v1/agents/{agent_id}/artifacts/{artifact.id}/content"
    hashed = hashlib.sha256()
    try:
        async with connection.http.stream("GET", path, headers={"Authorization": f"Bearer {token}"}) as reply:
            if reply.status_code != 200:
                answer(reply.status_code, reply.headers, await reply.aread())
            async for piece in reply.aiter_bytes():
                hashed.update(piece)
                yield piece
    except httpx.HTTPError as error:
        raise unreachable(error) from error
    if hashed.hexdigest() != artifact.sha256:
        raise ServerUnavailable("The bytes that came are not the artifact's.")


async def save(pieces: AsyncIterable[bytes], path: Path) -> None:
    """Write pieces to a file, which is there only when all have come."""
    beside = path.with_name(f"{path.name}.part")
    file = await asyncio.to_thread(beside.open, "wb")
    try:
        async for piece in pieces:
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.close)
        await asyncio.to_thread(beside.replace, path)
    except BaseException:
        file.close()
        beside.unlink(missing_ok=True)
        raise
