"""Outbound connections: the rules, each change in one transaction with its audit row."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from clavitor_fleet.connections import outbox
from clavitor_fleet.connections.models import Connection
from clavitor_fleet.connections.tables import outbound_connections, outbound_deliveries
from clavitor_fleet.errors import in_use, not_found, taken, unknown_reference
from clavitor_fleet.lists import Page, fetch_page
from clavitor_fleet.records import record
from clavitor_host.api import UnusableURL, clean_name, name_key, new_id

if TYPE_CHECKING:
    from clavitor_host.api import Host, Identity, Transaction

_COLUMNS = tuple(outbound_connections.c[name] for name in Connection._fields)
_COUNT = sa.select(sa.func.count()).select_from(outbound_connections)
_WELL: Mapping[str, Any] = {"failures": 0, "failing_since": None, "next_attempt_at": None, "last_error": None}
"""What a connection is set to when it begins anew: with another target or another secret, and when it is enabled."""


async def create_connection(
    host: Host, *, name: str, kind: str, url: str, secret: str | None, enabled: bool, requested_by: Identity
) -> tuple[Connection, str | None]:
    """Add a connection; returns it, and the secret when the server has made one.

    Raises a 400 for a bad name, 409 for one that is taken, 422 for a URL that nothing is sent to, and 403 for the cap.
    """
    clean = clean_name(name)
    await _check_url(host, url)
    key = secret or secrets.token_hex(32)
    async with host.db.transaction() as tx:
        await host.assert_within_cap(tx, "max_outbound_connections", 1, requested_by.actor)
        await _assert_name_free(tx, clean)
        now = host.clock.now_us()
        made = Connection(new_id(host), clean, kind, url, enabled, now, now)
        values = {**made._asdict(), "name_key": name_key(clean), "secret": key, "failures": 0}
        await tx.execute(sa.insert(outbound_connections).values(values))
        payload = {"outbound_connection_id": made.id, "kind": kind, "target": origin(url), "enabled": enabled}
        title = f"created outbound connection {clean}"
        await record(host, tx, requested_by, "create_outbound_connection", title=title, payload=payload)
        return made, None if secret else key


async def list_connections(host: Host, page: Page) -> tuple[Sequence[Connection], str | None]:
    """Return a page of connections in the order they were made, and the next cursor."""
    return await fetch_page(host, sa.select(*_COLUMNS), outbound_connections.c.id, page, connection_of)


async def get_connection(host: Host, connection_id: str) -> Connection:
    """Return a connection. Raises a 404."""
    row = await host.db.fetch_one(sa.select(*_COLUMNS).where(outbound_connections.c.id == connection_id))
    if row is None:
        raise not_found("outbound_connection")
    return connection_of(row)


async def secret_of(host: Host, connection_id: str) -> str:
    """Return the key of a connection's signatures. Raises a 404."""
    found = await host.db.fetch_val(
        sa.select(outbound_connections.c.secret).where(outbound_connections.c.id == connection_id)
    )
    if found is None:
        raise not_found("outbound_connection")
    return str(found)


async def update_connection(
    host: Host, connection_id: str, *, changes: Mapping[str, Any], requested_by: Identity
) -> Connection:
    """Change a connection: name, url, secret, enabled. What waits for it is then sent at once, and as it now says.

    Raises a 404, 409 for a name that is taken, 422 for a URL that nothing is sent to.
    """
    wanted = dict(changes)
    if "name" in wanted:
        wanted["name"] = clean_name(wanted["name"])
    if "url" in wanted:
        await _check_url(host, wanted["url"])
    async with host.db.transaction() as tx:
        before = await locked_connection(tx, connection_id)
        new = {key: value for key, value in wanted.items() if key == "secret" or value != getattr(before, key)}
        if not new:
            return before
        told, was = _told(new), _told({key: getattr(before, key) for key in new if key != "secret"})
        if "name" in new:
            if name_key(new["name"]) != name_key(before.name):
                await _assert_name_free(tx, new["name"])
            new["name_key"] = name_key(new["name"])
        if new.keys() & {"url", "secret"} or new.get("enabled"):
            new |= _WELL
        new["updated_at"] = max(host.clock.now_us(), before.updated_at + 1)
        change = sa.update(outbound_connections).where(outbound_connections.c.id == connection_id)
        await tx.execute(change.values(new))
        await host.signals.send(tx, outbox.WAITING)
        payload = {"outbound_connection_id": connection_id, **told, "was": was}
        title = f"changed outbound connection {before.name}"
        await record(host, tx, requested_by, "update_outbound_connection", title=title, payload=payload)
        return before._replace(**{key: value for key, value in new.items() if key in Connection._fields})


async def delete_connection(host: Host, connection_id: str, *, requested_by: Identity) -> None:
    """Remove a connection that no rule uses, and what waits for it. Raises a 404, 409."""
    from clavitor_fleet.alerts.tables import alert_rules

    async with host.db.transaction() as tx:
        connection = await locked_connection(tx, connection_id)
        rules = sa.select(sa.func.count()).where(alert_rules.c.outbound_connection_id == connection_id)
        used_by = {"alert_rules": int(await tx.fetch_val(rules))}
        if any(used_by.values()):
            raise in_use("outbound_connection", used_by)
        await tx.execute(sa.delete(outbound_deliveries).where(outbound_deliveries.c.connection_id == connection_id))
        await tx.execute(sa.delete(outbound_connections).where(outbound_connections.c.id == connection_id))
        payload = {"outbound_connection_id": connection_id}
        title = f"deleted outbound connection {connection.name}"
        await record(host, tx, requested_by, "delete_outbound_connection", title=title, payload=payload)


async def require_connection(tx: Transaction, connection_id: str, field: str = "outbound_connection_id") -> Connection:
    """Return a connection that stays to the end of the transaction. Raises a 422 that names the field."""
    query = sa.select(*_COLUMNS).where(outbound_connections.c.id == connection_id)
    row = await tx.fetch_one(query.with_for_update(read=True, key_share=True))
    if row is None:
        raise unknown_reference(field, "outbound_connection")
    return connection_of(row)


async def locked_connection(tx: Transaction, connection_id: str) -> Connection:
    """Return a connection whose row this transaction then holds. Raises a 404."""
    query = sa.select(*_COLUMNS).where(outbound_connections.c.id == connection_id)
    row = await tx.fetch_one(query.with_for_update())
    if row is None:
        raise not_found("outbound_connection")
    return connection_of(row)


async def count_connections(tx: Transaction) -> int:
    """Return how many outbound connections there are: what `max_outbound_connections` counts."""
    return int(await tx.fetch_val(_COUNT))


def connection_of(row: Mapping[str, Any]) -> Connection:
    """Return a stored row as a `Connection`."""
    return Connection(**{name: row[name] for name in Connection._fields})


def origin(url: str) -> str:
    """Return what may be told of a URL: scheme, host and port. Path and query are often secrets themselves."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def hidden(url: str) -> str:
    """Return a URL without what may be a secret in it: `https://host/…`."""
    parts = urlsplit(url)
    return f"{origin(url)}/…" if parts.path.strip("/") or parts.query or parts.fragment else origin(url)


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an audit row may say of columns: of a secret that it is new, of a URL where it leads."""
    told = {key: value for key, value in values.items() if key not in ("secret", "url")}
    if "secret" in values:
        told["secret"] = "changed"  # noqa: S105 - that it was, not what it is
    if "url" in values:
        told["target"] = origin(values["url"])
    return told


async def _check_url(host: Host, url: str) -> None:
    from clavitor_fleet.fleet import fleet_of

    try:
        await host.outbound.check(url, fleet_of(host).config.outbound_allow)
    except UnusableURL as error:
        error.extra["field"] = "url"
        raise


async def _assert_name_free(tx: Transaction, name: str) -> None:
    same = sa.select(outbound_connections.c.id).where(outbound_connections.c.name_key == name_key(name))
    if await tx.fetch_one(same) is not None:
        raise taken("outbound_connection")
