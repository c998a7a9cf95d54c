"""Sessions of browsers: on the server, behind a `__Host-` cookie of which only the SHA-256 is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from clavitor_host.errors import problem
from clavitor_host.identity.csrf import csrf_token
from clavitor_host.identity.ids import digest, secret, uuid7
from clavitor_host.identity.models import Identity, Session
from clavitor_host.identity.names import shown
from clavitor_host.identity.rows import record
from clavitor_host.identity.tables import sessions

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.http import Request
    from clavitor_host.storage.database import Transaction

COOKIE = "__Host-clavitor_session"
IDLE_SECONDS = 7200.0
"""A session that was not used for this long has ended."""

_COLUMNS = tuple(column for column in sessions.columns if column.name != "hash")


class NewSession(NamedTuple):
    """What a browser gets at login. `set_cookie`: the header's value. `expires_at`: µs since the epoch."""

    session: Session
    set_cookie: str
    csrf_token: str


def clear_cookie() -> str:
    """Return the Set-Cookie value that makes a browser forget its session."""
    return f"{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"


def session_cookie(request: Request) -> str | None:
    """Return the session cookie's value: None when there is none, "" when there are several."""
    return cookie_value(request, COOKIE)


def cookie_value(request: Request, wanted: str) -> str | None:
    """Return a cookie's value: None when there is none, "" when there are several of that name."""
    found: str | None = None
    for name, value in request.headers:
        if name != b"cookie":
            continue
        for pair in value.decode("latin-1").split(";"):
            key, _, text = pair.strip(" \t").partition("=")
            if key == wanted:
                found = text if found is None else ""
    return found


async def start_session(host: Host, tx: Transaction, user_id: str, request: Request) -> NewSession:
    """Begin a session with a new id, in the transaction of a login; the one that the browser showed so far ends."""
    shown_cookie = session_cookie(request)
    if shown_cookie:
        await tx.execute(sa.delete(sessions).where(sessions.c.hash == digest(shown_cookie.encode("latin-1"))))
    now = host.clock.now_us()
    lifetime = host.config.session.lifetime
    value = secret()
    row = {
        "id": uuid7(now),
        "hash": digest(value.encode()),
        "user_id": user_id,
        "created_at": now,
        "last_seen_at": now,
        "expires_at": now + int(lifetime * 1_000_000),
        "source": request.client,
        "user_agent": shown(request.header(b"user-agent") or "", 200),
    }
    await tx.execute(sa.insert(sessions).values(row))
    cookie = f"{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={int(lifetime)}"
    return NewSession(session_of(row), cookie, csrf_token(value))


async def list_sessions(host: Host, user_id: str) -> list[Session]:
    """Return a user's sessions that have not ended, newest first."""
    now = host.clock.now_us()
    rows = await host.db.fetch_all(
        sa.select(*_COLUMNS)
        .where(
            sessions.c.user_id == user_id,
            sessions.c.expires_at > now,
            sessions.c.last_seen_at > now - int(IDLE_SECONDS * 1_000_000),
        )
        .order_by(sessions.c.id.desc())
        .limit(1000)
    )
    return [session_of(row) for row in rows]


async def end_session(host: Host, user_id: str, session_id: str, *, requested_by: Identity) -> None:
    """End one session of a user at once. Raises a 404 for one that is not theirs."""
    async with host.db.transaction() as tx:
        ended = await tx.execute(sa.delete(sessions).where(sessions.c.id == session_id, sessions.c.user_id == user_id))
        if ended != 1:
            raise problem(404, "session_not_found", "There is no such session.")
        own = session_id == requested_by.session_id
        title = f"{requested_by.actor} logged out" if own else f"ended a session of {requested_by.actor}"
        await record(
            host, tx, requested_by, "logout", title=title, payload={"user_id": user_id, "session_id": session_id}
        )


async def end_sessions(host: Host, user_id: str, *, requested_by: Identity) -> None:
    """End all sessions of a user at once."""
    async with host.db.transaction() as tx:
        ended = await tx.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
        title = f"ended all sessions of {requested_by.actor}"
        await record(host, tx, requested_by, "logout", title=title, payload={"user_id": user_id, "sessions": ended})


def session_of(row: Mapping[str, Any]) -> Session:
    """Return a stored row as a `Session`."""
    return Session(**{column.name: row[column.name] for column in _COLUMNS})


async def purge(host: Host) -> None:
    """Delete sessions that have ended. Idle ones stay a while longer: another process may have seen them since."""
    now = host.clock.now_us()
    idle = now - int((IDLE_SECONDS + 600) * 1_000_000)
    await host.db.execute(
        sa.delete(sessions).where(sa.or_(sessions.c.expires_at <= now, sessions.c.last_seen_at <= idle))
    )
