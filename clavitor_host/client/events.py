"""One connection to an agent's event stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from clavitor_host import strict_json
from clavitor_host.client.connection import TIMEOUT, answer, unreachable
from clavitor_host.client.errors import ServerUnavailable
from clavitor_host.client.sse import EventParser
from clavitor_host.client.values import Command, EntryChanged, Event, Resync

if TYPE_CHECKING:
    from clavitor_host.client.connection import Connection

SILENCE = 45.0
"""Seconds without a byte after which the connection is taken for dead: the server speaks every 15."""


async def open_stream(
    connection: Connection, agent_id: str, token: str, last_event_id: str
) -> AsyncGenerator[tuple[str, Event | None], None]:
    """Yield `(id, event)` until the connection ends; None for an id alone, and for an event not known here.

    Raises `ServerUnavailable` when it is cut, and `Refused`.
    """
    import httpx

    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    parser = EventParser()
    try:
        async with connection.http.stream(
            "GET",
            f"/api/v1/agents/{agent_id}/events",
            headers=headers,
            timeout=httpx.Timeout(TIMEOUT, read=SILENCE),
        ) as reply:
            if reply.status_code != 200:
                answer(reply.status_code, reply.headers, await reply.aread())
            connection.outage.end()
            async for piece in reply.aiter_bytes():
                for found in parser.feed(piece):
                    yield found.id, _event(found.name, found.data)
    except httpx.HTTPError as error:
        connection.outage.begin(unreachable(error))
        raise unreachable(error) from error
    except (ValueError, KeyError) as error:
        raise ServerUnavailable(f"The event stream cannot be read: {error}.") from error
    raise ServerUnavailable("The event stream has ended.", retry_after=(parser.retry or 0) / 1000)


def _event(name: str, data: str) -> Event | None:
    kinds: dict[str, Any] = {"command": Command, "entry": EntryChanged, "resync": Resync}
    kind = kinds.get(name)
    if kind is None or not data:
        return None
    told = strict_json.loads(data.encode())
    found: Event = kind(**{field: told[field] for field in kind._fields})
    return found
