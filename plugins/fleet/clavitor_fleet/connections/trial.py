"""Trying a connection: a test event is sent while the caller waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_fleet.connections.models import Message
from clavitor_fleet.connections.outbox import compact
from clavitor_fleet.connections.service import get_connection, origin, secret_of
from clavitor_fleet.records import record
from clavitor_host.api import new_id

if TYPE_CHECKING:
    from clavitor_fleet.connections.sending import Outcome
    from clavitor_host.api import Host, Identity

EVENT = "test"


async def try_connection(host: Host, connection_id: str, *, requested_by: Identity) -> Outcome:
    """Send a test event and say what came of it, within 10 s; recorded in the audit log. Raises a 404."""
    from clavitor_fleet.fleet import fleet_of

    connection = await get_connection(host, connection_id)
    secret = await secret_of(host, connection_id)
    about = {"id": connection.id, "name": connection.name}
    body = {"event": EVENT, "outbound_connection": about, "at": host.clock.now_us()}
    message = Message(new_id(host), EVENT, compact(body).encode())
    outcome = await fleet_of(host).deliverer.send_now(connection.url, secret, message)
    payload = {
        "outbound_connection_id": connection.id,
        "target": origin(connection.url),
        "delivered": outcome.delivered,
        "status": outcome.status,
        "reason": outcome.reason,
    }
    title = f"tested outbound connection {connection.name}"
    async with host.db.transaction() as tx:
        await record(host, tx, requested_by, "test_outbound_connection", title=title, payload=payload)
    return outcome
