"""Which user an OIDC subject is; a new one becomes a VIEWER. E-mail addresses and names never decide who it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_host.errors import CapExceeded, Problem, forbidden
from clavitor_host.identity.ids import digest
from clavitor_host.identity.models import Identity, OidcSubject, Role, User
from clavitor_host.identity.names import MAX_NAME, clean_user_name, name_key
from clavitor_host.identity.tables import users
from clavitor_host.identity.users import NewUser, add_user, find_by_oidc, lock_for_new_user

if TYPE_CHECKING:
    from clavitor_host.config.models import OidcConfig
    from clavitor_host.host import Host
    from clavitor_host.storage.database import Transaction

ACTOR = "oidc"


async def user_for(host: Host, config: OidcConfig, subject: str, claims: Mapping[str, Any], source: str) -> User:
    """Return the user of a subject, made now when it is new.

    Raises a 403 `no_signup` when new users are not wanted, and the refusal of the `max_users` cap.
    """
    oidc = OidcSubject(config.issuer, subject)
    known = await find_by_oidc(host.db, oidc)
    if known is not None:
        return known
    if not config.auto_signup:
        raise forbidden("You have no user here; ask an ADMIN.", code="no_signup")
    by = Identity(kind="user", actor=ACTOR, via="system", source=source)
    try:
        async with host.db.transaction() as tx:
            await lock_for_new_user(host, tx, by)
            known = await find_by_oidc(tx, oidc)
            if known is not None:  # another login of the same person was faster
                return known
            name = await _free_name(tx, claims, oidc)
            return await add_user(host, tx, NewUser(name, Role.VIEWER, oidc=oidc), by)
    except CapExceeded:
        known = await find_by_oidc(host.db, oidc)  # it may have taken the last seat
        if known is None:
            raise
        return known


async def _free_name(tx: Transaction, claims: Mapping[str, Any], oidc: OidcSubject) -> str:
    for name in _names(claims, oidc):
        if await tx.fetch_one(sa.select(users.c.id).where(users.c.name_key == name_key(name))) is None:
            return name
    raise AssertionError("names do not run out")  # the last one is made of the subject's hash


def _names(claims: Mapping[str, Any], oidc: OidcSubject) -> Iterator[str]:
    """Yield acceptable names for a person, the nicest first."""
    mark = digest(f"{oidc.issuer}\n{oidc.subject}".encode())[:12]
    for claim in ("preferred_username", "email", "sub"):
        value = claims.get(claim)
        if not isinstance(value, str):
            continue
        text = "".join(char if char.isprintable() and char != ":" else "_" for char in value[: MAX_NAME - 16]).strip()
        try:
            clean = clean_user_name(text)
        except Problem:
            continue
        yield clean
        yield from (f"{clean}-{number}" for number in range(2, 10))
        yield f"{clean}-{mark}"
    yield f"user-{mark}"
