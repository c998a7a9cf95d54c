"""Logging in with a name and a password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_host.errors import Problem
from clavitor_host.identity import throttle
from clavitor_host.identity.caller import user_id_of
from clavitor_host.identity.csrf import check_origin
from clavitor_host.identity.models import Identity, User
from clavitor_host.identity.names import name_key, shown
from clavitor_host.identity.passwords import check_password, needs_rehash
from clavitor_host.identity.rows import entry, note_bounded, record
from clavitor_host.identity.sessions import NewSession, start_session
from clavitor_host.identity.state import state_of
from clavitor_host.identity.tables import users
from clavitor_host.identity.users import locked_user, record_password, replace_password

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.http import Request
    from clavitor_host.storage.database import Transaction

NOBODY = "anonymous"
"""Actor of audit rows about people who are not logged in."""


async def log_in(host: Host, request: Request, name: str, password: str) -> tuple[User, NewSession]:
    """Begin a session for a name and a password.

    Raises the same 401 after the same time for an unknown name, a wrong password, a disabled user and one that has
    no password; a 429 with Retry-After after too many failures.
    """
    check_origin(request)
    tried = throttle.attempt(host, name, request.client)
    await _admit(host, tried, name, request.client)
    row = await _find(host, name)
    stored: str | None = None if row is None or row["disabled"] else row["password_hash"]
    if not await state_of(host).passwords.verify(password, stored):
        raise await failed(host, name, request.client, "password")
    assert row is not None and stored is not None
    rehashed = await state_of(host).passwords.hash(password) if needs_rehash(stored) else stored
    async with host.db.transaction() as tx:
        now = host.clock.now_us()
        logged_in = (
            sa.update(users)
            .where(users.c.id == row["id"], users.c.password_hash == stored, users.c.disabled.is_(False))
            .values(last_login_at=now, password_hash=rehashed)
        )
        good = await tx.execute(logged_in) == 1  # nobody changed the password or disabled the user meanwhile
        if good:
            user = await locked_user(tx, row["id"])
            session = await start_session(host, tx, user.id, request)
            await throttle.forgive(tx, tried)
            await record_login(host, tx, user, session, source=request.client, method="password")
    if not good:
        raise await failed(host, name, request.client, "password")
    return user, session


async def change_password(
    host: Host, request: Request, identity: Identity, current: str, new: str
) -> NewSession | None:
    """Give the caller a new password; all their sessions end, and one that asked for it gets a new one.

    Raises a 403 `no_user` for a caller that is no user and `wrong_password`, a 409 `no_password` for a user who has
    none, a 400 for a bad new one, a 409 `password_changed` when another change was faster.
    """
    user_id = user_id_of(request)
    check_password(new, "new_password")
    row = await host.db.fetch_one(sa.select(users).where(users.c.id == user_id))
    if row is None or row["password_hash"] is None:
        raise Problem(409, "no_password", "You have no password; an ADMIN can set one.")
    tried = throttle.attempt(host, row["name"], request.client)
    await _admit(host, tried, row["name"], request.client)
    hasher = state_of(host).passwords
    if not await hasher.verify(current, row["password_hash"]):
        title = f"wrong password given by {identity.actor}"
        payload = {"method": "password"}
        await host.audit.note(
            entry("login_failed", identity.actor, title=title, payload=payload, source=request.client)
        )
        raise Problem(403, "wrong_password", "current_password is not your password.")
    password_hash = await hasher.hash(new)
    session = None
    async with host.db.transaction() as tx:
        user = await replace_password(host, tx, user_id, password_hash, only_if=row["password_hash"])
        await throttle.forgive(tx, tried)
        if identity.via == "session":
            session = await start_session(host, tx, user.id, request)
        await record_password(host, tx, user, identity)
    return session


async def failed(host: Host, name: str, source: str, method: str, **details: Any) -> Problem:
    """Audit a failed login; returns the 401 that says no more than that it failed."""
    payload: Mapping[str, Any] = {"method": method, "name": shown(name), **details}
    title = f"failed login as {shown(name)}"
    await host.audit.note(entry("login_failed", NOBODY, title=title, payload=payload, source=source))
    return Problem(
        401,
        "login_failed",
        "The name or the password is wrong.",
        headers={"WWW-Authenticate": 'Bearer realm="clavitor"'},
    )


async def record_login(
    host: Host, tx: Transaction, user: User, session: NewSession, *, source: str, method: str
) -> None:
    """Append the audit row of a login, last in its transaction."""
    by = Identity(kind="user", actor=user.name, user_id=user.id, via="session", source=source)
    payload = {"user_id": user.id, "session_id": session.session.id, "method": method}
    await record(host, tx, by, "login", title=f"{user.name} logged in", payload=payload)


async def _admit(host: Host, tried: throttle.Attempt, name: str, source: str) -> None:
    try:
        await throttle.admit(host, tried)
    except Problem as error:
        if error.status == 429:
            payload = {"name": shown(name)}
            title = f"throttled login as {shown(name)}"
            await note_bounded(
                host,
                f"{tried.name} {source}",
                "login_throttled",
                actor=NOBODY,
                title=title,
                payload=payload,
                source=source,
            )
        raise


async def _find(host: Host, name: str) -> Mapping[str, Any] | None:
    if not name.isprintable():  # no user has such a name, and not every database takes it
        return None
    return await host.db.fetch_one(sa.select(users).where(users.c.name_key == name_key(name)))
