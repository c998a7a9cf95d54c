"""Who makes a request: bearer token, then session cookie, then the plugins.

This is on the path of every request: one point read, no cache, so that revoking a token, ending a session or
disabling a user takes effect at once in every process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_host.errors import unauthorized
from clavitor_host.identity.csrf import check_csrf
from clavitor_host.identity.ids import digest
from clavitor_host.identity.models import Identity, Role
from clavitor_host.identity.sessions import COOKIE, IDLE_SECONDS, session_cookie
from clavitor_host.identity.state import state_of
from clavitor_host.identity.tables import sessions, tokens, users
from clavitor_host.storage.database import PointRead

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.http import Request

METRICS_PATH = "/api/v1/prometheus"
"""The only place where a metrics token is good."""
MAX_TOKEN = 256
"""Longest token of ours, in bytes; a longer one is not looked up."""

_IDLE = int(IDLE_SECONDS * 1_000_000)
_ROLES = {role.value: role for role in Role}
_COOKIE = COOKIE.encode()

_TOKEN = PointRead(
    sa.select(
        tokens.c.id,
        tokens.c.kind,
        tokens.c.name,
        tokens.c.scope,
        tokens.c.environment_id,
        tokens.c.expires_at,
        tokens.c.agent_id,
        tokens.c.user_id,
        users.c.name.label("user_name"),
        users.c.role,
        users.c.disabled,
    )
    .select_from(tokens.outerjoin(users, users.c.id == tokens.c.user_id))
    .where(tokens.c.hash == sa.bindparam("hash"))
)
_SESSION = PointRead(
    sa.select(
        sessions.c.id,
        sessions.c.last_seen_at,
        sessions.c.expires_at,
        users.c.id.label("user_id"),
        users.c.name,
        users.c.role,
        users.c.disabled,
    )
    .select_from(sessions.join(users, users.c.id == sessions.c.user_id))
    .where(sessions.c.hash == sa.bindparam("hash"))
)


async def authenticate(host: Host, request: Request) -> Identity | None:
    """Return who makes a request, None when it shows no credential at all.

    Raises the one 401 for a credential that is wrong, expired, revoked or of the wrong kind, and a 403 `csrf` for
    an unsafe request with a session that no page of ours sent.
    """
    authorization: bytes | None = None
    has_cookie = False
    for name, value in request.headers:
        if name == b"authorization":
            if authorization is not None:
                raise unauthorized()
            authorization = value
        elif name == b"cookie" and _COOKIE in value:
            has_cookie = True
    if authorization is not None:
        return await _by_bearer(host, request, authorization)
    if has_cookie:
        cookie = session_cookie(request)
        if cookie is not None:
            return await _by_session(host, request, cookie)
    return await _by_plugin(host, request)


async def _by_bearer(host: Host, request: Request, authorization: bytes) -> Identity:
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        raise unauthorized()
    token = token.strip(b" ")
    row = None
    if token.startswith(b"clv_") and len(token) <= MAX_TOKEN:
        row = await host.db.point_read(_TOKEN, digest(token))
    if row is None:
        identity = await _by_plugin(host, request)
        if identity is None:
            raise unauthorized()
        return identity
    (token_id, kind, name, scope, environment_id, expires_at, agent_id, user_id, user_name, role, disabled) = row
    now = host.clock.now_us()
    if expires_at is not None and expires_at <= now:
        raise unauthorized()
    actor = f"{kind}:{agent_id or name}"
    if kind == "user":
        if user_name is None or disabled:
            raise unauthorized()
        actor = user_name
    elif kind == "metrics" and request.path != METRICS_PATH:
        raise unauthorized()
    state_of(host).tokens_used[token_id] = now
    return Identity(
        kind,
        actor,
        _ROLES[role] if kind == "user" else None,
        user_id,
        token_id,
        scope,
        environment_id,
        "token",
        None,
        agent_id,
        request.client,
    )


async def _by_session(host: Host, request: Request, cookie: str) -> Identity:
    row = await host.db.point_read(_SESSION, digest(cookie.encode("latin-1"))) if cookie else None
    if row is None:
        raise unauthorized()
    session_id, last_seen_at, expires_at, user_id, user_name, role, disabled = row
    now = host.clock.now_us()
    seen = state_of(host).sessions_seen
    last_seen_at = max(last_seen_at, seen.get(session_id, 0))
    if disabled or expires_at <= now or last_seen_at + _IDLE <= now:
        raise unauthorized()
    await check_csrf(request, cookie)
    seen[session_id] = now
    return Identity(
        kind="user",
        actor=user_name,
        role=_ROLES[role],
        user_id=user_id,
        via="session",
        session_id=session_id,
        source=request.client,
    )


async def _by_plugin(host: Host, request: Request) -> Identity | None:
    if not host.hooks.has("authenticate"):
        return None
    identity: Identity | None = await host.hooks.first_async("authenticate", host=host, request=request)
    if identity is not None and not identity.source and request.client:
        return identity._replace(source=request.client)
    return identity
