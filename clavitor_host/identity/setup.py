"""The first start: a one-time link with which the first ADMIN is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_host.errors import Problem, problem
from clavitor_host.identity.csrf import check_origin
from clavitor_host.identity.ids import digest, secret
from clavitor_host.identity.login import record_login
from clavitor_host.identity.models import Identity, Role, User
from clavitor_host.identity.names import clean_user_name
from clavitor_host.identity.passwords import check_password
from clavitor_host.identity.sessions import NewSession, start_session
from clavitor_host.identity.state import state_of
from clavitor_host.identity.tables import setup_tokens, users
from clavitor_host.identity.users import NewUser, add_user, lock_for_new_user

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.http import Request

MAX_LINKS = 20
"""Links that are good at once: every start prints one, and older ones stay good for a while."""

GOOD_FOR = 24 * 3600 * 1_000_000
"""How long a link is good, in µs. The next start prints a new one."""

_ANY_ADMIN = sa.select(users.c.id).where(users.c.role == Role.ADMIN.value).limit(1)
"""Not any user: one who signed up through OIDC first could not administer anything."""


async def setup_link(host: Host, base_url: str) -> str | None:
    """Return a one-time link to make the first ADMIN, None when there is one already. Only its hash is stored."""
    token = secret()
    async with host.db.transaction() as tx:
        if await tx.fetch_one(_ANY_ADMIN) is not None:
            return None
        newest = sa.select(setup_tokens.c.hash).order_by(setup_tokens.c.created_at.desc()).limit(MAX_LINKS - 1)
        await tx.execute(sa.delete(setup_tokens).where(setup_tokens.c.hash.not_in(newest)))
        now = host.clock.now_us()
        await tx.execute(sa.insert(setup_tokens).values(hash=digest(token.encode()), created_at=now))
    return f"{base_url}/setup?token={token}"


async def check_setup_token(host: Host, token: str) -> None:
    """Raise a 409 `already_set_up` when there is an ADMIN, a 403 `setup_token` for a token that is not good."""
    if await host.db.fetch_one(_ANY_ADMIN) is not None:
        raise _already_set_up()
    if await host.db.fetch_one(_by_token(host, token)) is None:
        raise _bad_token()


async def set_up(host: Host, request: Request, token: str, name: str, password: str) -> tuple[User, NewSession]:
    """Make the first ADMIN and begin a session. Then no setup link is good any more.

    Raises what `check_setup_token` and `create_user` raise. Of several at once, one wins.
    """
    check_origin(request)
    await check_setup_token(host, token)
    clean = clean_user_name(name)
    check_password(password)
    password_hash = await state_of(host).passwords.hash(password)
    by = Identity(kind="user", actor="setup", role=Role.ADMIN, via="system", source=request.client)
    async with host.db.transaction() as tx:
        await lock_for_new_user(host, tx, by)
        if await tx.fetch_one(_ANY_ADMIN) is not None:
            raise _already_set_up()
        if await tx.fetch_one(_by_token(host, token)) is None:
            raise _bad_token()
        await tx.execute(sa.delete(setup_tokens))
        user = await add_user(host, tx, NewUser(clean, Role.ADMIN, password_hash), by)
        session = await start_session(host, tx, user.id, request)
        await tx.execute(sa.update(users).where(users.c.id == user.id).values(last_login_at=host.clock.now_us()))
        await record_login(host, tx, user, session, source=request.client, method="setup")
    return user, session


async def purge(host: Host) -> None:
    """Delete setup links once there is an ADMIN."""
    await host.db.execute(sa.delete(setup_tokens).where(sa.exists(_ANY_ADMIN)))


def _by_token(host: Host, token: str) -> sa.Select[tuple[str]]:
    known = setup_tokens.c.hash == digest(token.encode("utf-8", "surrogatepass"))
    return sa.select(setup_tokens.c.hash).where(known, setup_tokens.c.created_at > host.clock.now_us() - GOOD_FOR)


def _already_set_up() -> Problem:
    return problem(409, "already_set_up", "There is an administrator already: log in, or use `clavitor user create`.")


def _bad_token() -> Problem:
    return Problem(
        403, "setup_token", "The setup link is not good any more; the server prints a new one at its next start."
    )
