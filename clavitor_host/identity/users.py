"""Users: the rules, each change in one transaction with its audit row.

Every function that adds or weakens a user holds the `USERS_LOCK` of its transaction, so that two at once can
neither take the same seat nor leave the server without an ADMIN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from clavitor_host.errors import Problem, problem
from clavitor_host.identity.ids import uuid7
from clavitor_host.identity.models import Identity, OidcSubject, Role, User
from clavitor_host.identity.names import clean_user_name, name_key
from clavitor_host.identity.passwords import check_password
from clavitor_host.identity.rows import record
from clavitor_host.identity.state import state_of
from clavitor_host.identity.tables import sessions, users

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.storage.database import Database, Transaction

USERS_LOCK = "clavitor.users"

_COLUMNS = tuple(column for column in users.columns)
_COUNT = sa.select(sa.func.count()).select_from(users)


class NewUser(NamedTuple):
    """A user to be added. `name` is clean (`clean_user_name`), `password_hash` a PHC string."""

    name: str
    role: Role
    password_hash: str | None = None
    oidc: OidcSubject | None = None


async def create_user(
    host: Host,
    *,
    name: str,
    role: Role,
    password: str | None = None,
    oidc: OidcSubject | None = None,
    requested_by: Identity,
) -> User:
    """Add a user; administrators, OIDC, SCIM and the command line all come here.

    Raises a 400 for a bad name or password, 409 for a name or OIDC subject that is taken, and the refusal of
    `assert_within_cap("max_users")` (licensing.md section 3).
    """
    clean = clean_user_name(name)
    password_hash = None
    if password is not None:
        check_password(password)
        password_hash = await state_of(host).passwords.hash(password)
    async with host.db.transaction() as tx:
        await lock_for_new_user(host, tx, requested_by)
        return await add_user(host, tx, NewUser(clean, role, password_hash, oidc), requested_by)


async def lock_for_new_user(host: Host, tx: Transaction, requested_by: Identity) -> None:
    """Do what comes first in a transaction that adds a user: the cap check, then the lock."""
    await host.assert_within_cap(tx, "max_users", 1, requested_by.actor)
    await tx.lock(USERS_LOCK)


async def add_user(host: Host, tx: Transaction, new: NewUser, requested_by: Identity) -> User:
    """Insert a user and its audit row, in a transaction that `lock_for_new_user` has begun."""
    key = name_key(new.name)
    if await tx.fetch_one(sa.select(users.c.id).where(users.c.name_key == key)) is not None:
        raise problem(409, "user_exists", "A user with this name exists.")
    if new.oidc is not None and await find_by_oidc(tx, new.oidc) is not None:
        raise problem(409, "oidc_subject_taken", "A user with this OIDC subject exists.")
    now = host.clock.now_us()
    row = {
        "id": uuid7(now),
        "name": new.name,
        "name_key": key,
        "role": new.role.value,
        "password_hash": new.password_hash,
        "oidc_issuer": new.oidc.issuer if new.oidc else None,
        "oidc_subject": new.oidc.subject if new.oidc else None,
        "disabled": False,
        "created_at": now,
        "updated_at": now,
        "last_login_at": None,
    }
    await tx.execute(sa.insert(users).values(row))
    user = user_of(row)
    await record(
        host,
        tx,
        requested_by,
        "create_user",
        title=f"created user {user.name}",
        payload={"user_id": user.id, "role": user.role.value, "oidc": new.oidc is not None},
    )
    return user


async def list_users(
    host: Host, *, name: str | None = None, after: str | None = None, limit: int = 100
) -> tuple[list[User], bool]:
    """Return users in the order they were made, those after the id `after`, and whether there are more.

    name: only the user of this name, however it is spelt.
    """
    if name is not None and not name.isprintable():  # no user has such a name, and not every database takes it
        return [], False
    query = sa.select(*_COLUMNS).order_by(users.c.id).limit(limit + 1)
    if name is not None:
        query = query.where(users.c.name_key == name_key(name))
    if after is not None:
        query = query.where(users.c.id > after)
    rows = await host.db.fetch_all(query)
    return [user_of(row) for row in rows[:limit]], len(rows) > limit


async def get_user(host: Host, user_id: str) -> User:
    """Return a user. Raises a 404."""
    row = await host.db.fetch_one(sa.select(*_COLUMNS).where(users.c.id == user_id))
    if row is None:
        raise user_not_found()
    return user_of(row)


async def get_user_by_name(host: Host, name: str) -> User:
    """Return a user by name, however it is spelt. Raises a 404."""
    found, _ = await list_users(host, name=name, limit=1)
    if not found:
        raise user_not_found()
    return found[0]


async def find_by_oidc(tx: Database | Transaction, oidc: OidcSubject) -> User | None:
    """Return the user of an OIDC subject, if there is one."""
    row = await tx.fetch_one(
        sa.select(*_COLUMNS).where(users.c.oidc_issuer == oidc.issuer, users.c.oidc_subject == oidc.subject)
    )
    return None if row is None else user_of(row)


async def count_users(tx: Transaction) -> int:
    """Return how many users there are: what `max_users` counts. Disabled ones count."""
    return int(await tx.fetch_val(_COUNT))


async def update_user(
    host: Host,
    user_id: str,
    *,
    requested_by: Identity,
    name: str | None = None,
    role: Role | None = None,
    disabled: bool | None = None,
) -> User:
    """Change what is given of a user. Disabling ends their sessions and stops their tokens at once.

    Raises a 404, 409 `user_exists` for a taken name, 409 `last_admin`.
    """
    clean = None if name is None else clean_user_name(name)
    async with host.db.transaction() as tx:
        await tx.lock(USERS_LOCK)
        before = await locked_user(tx, user_id)
        changes: dict[str, Any] = {}
        if clean is not None and clean != before.name:
            await _assert_name_free(tx, clean, user_id)
            changes |= {"name": clean, "name_key": name_key(clean)}
        if role is not None and role != before.role:
            changes["role"] = role.value
        if disabled is not None and disabled != before.disabled:
            changes["disabled"] = disabled
        if not changes:
            return before
        if changes.get("role", Role.ADMIN) != Role.ADMIN or changes.get("disabled", False):
            await _assert_not_last_admin(tx, before)
        now = host.clock.now_us()
        await tx.execute(sa.update(users).where(users.c.id == user_id).values(**changes, updated_at=now))
        if disabled:
            await tx.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
        payload = {key: value for key, value in changes.items() if key != "name_key"}
        payload = {"user_id": user_id, **payload, "was": {key: getattr(before, key) for key in payload}}
        after = await locked_user(tx, user_id)
        title = f"changed user {before.name}"
        await record(host, tx, requested_by, "update_user", title=title, payload=payload)
        return after


async def set_role(host: Host, user_id: str, role: Role, *, requested_by: Identity) -> User:
    """Give a user another role. Raises a 404, 409 `last_admin`."""
    return await update_user(host, user_id, role=role, requested_by=requested_by)


async def set_disabled(host: Host, user_id: str, disabled: bool, *, requested_by: Identity) -> User:
    """Disable or enable a user; see `update_user`."""
    return await update_user(host, user_id, disabled=disabled, requested_by=requested_by)


async def delete_user(host: Host, user_id: str, *, requested_by: Identity) -> None:
    """Remove a user with their tokens and sessions. Raises a 404, 409 `last_admin`."""
    async with host.db.transaction() as tx:
        await tx.lock(USERS_LOCK)
        user = await locked_user(tx, user_id)
        await _assert_not_last_admin(tx, user)
        await tx.execute(sa.delete(users).where(users.c.id == user_id))
        payload = {"user_id": user_id, "role": user.role.value}
        await record(host, tx, requested_by, "delete_user", title=f"deleted user {user.name}", payload=payload)


async def set_password(host: Host, user_id: str, password: str, *, requested_by: Identity) -> User:
    """Set a user's password and end all their sessions. Raises a 400 for a bad password, a 404."""
    check_password(password)
    password_hash = await state_of(host).passwords.hash(password)
    async with host.db.transaction() as tx:
        user = await replace_password(host, tx, user_id, password_hash)
        await record_password(host, tx, user, requested_by)
        return user


async def replace_password(
    host: Host, tx: Transaction, user_id: str, password_hash: str, *, only_if: str | None = None
) -> User:
    """Store a user's new hash and end all their sessions; `record_password` comes last in the transaction.

    only_if: the hash that must still be stored, so that of two changes at once one wins (409 `password_changed`).
    """
    user = await locked_user(tx, user_id)
    change = sa.update(users).where(users.c.id == user_id)
    if only_if is not None:
        change = change.where(users.c.password_hash == only_if)
    if await tx.execute(change.values(password_hash=password_hash, updated_at=host.clock.now_us())) != 1:
        raise problem(409, "password_changed", "The password was changed by another request.")
    await tx.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
    return user


async def record_password(host: Host, tx: Transaction, user: User, requested_by: Identity) -> None:
    """Append the audit row of a new password."""
    await record(
        host, tx, requested_by, "set_password", title=f"set password of {user.name}", payload={"user_id": user.id}
    )


async def locked_user(tx: Transaction, user_id: str) -> User:
    """Return a user whose row this transaction then holds. Raises a 404."""
    row = await tx.fetch_one(sa.select(*_COLUMNS).where(users.c.id == user_id).with_for_update())
    if row is None:
        raise user_not_found()
    return user_of(row)


def user_of(row: Mapping[str, Any]) -> User:
    """Return a stored row as a `User`."""
    linked = row["oidc_issuer"] is not None
    return User(
        id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        disabled=bool(row["disabled"]),
        has_password=row["password_hash"] is not None,
        oidc=OidcSubject(row["oidc_issuer"], row["oidc_subject"]) if linked else None,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_login_at=row["last_login_at"],
    )


def user_not_found() -> Problem:
    """Return the 404 for a user that does not exist."""
    return problem(404, "user_not_found", "There is no such user.")


async def _assert_name_free(tx: Transaction, name: str, user_id: str) -> None:
    taken = sa.select(users.c.id).where(users.c.name_key == name_key(name), users.c.id != user_id)
    if await tx.fetch_one(taken) is not None:
        raise problem(409, "user_exists", "A user with this name exists.")


async def _assert_not_last_admin(tx: Transaction, user: User) -> None:
    if user.role is not Role.ADMIN or user.disabled:
        return
    others: Sequence[Any] = await tx.fetch_all(
        sa.select(users.c.id)
        .where(users.c.role == Role.ADMIN.value, users.c.disabled.is_(False), users.c.id != user.id)
        .limit(1)
    )
    if not others:
        raise problem(409, "last_admin", "This is the last enabled ADMIN; make another one first.")
