"""Bearer tokens `clv_<kind>_<random>`: making, listing and revoking them, and what they were last used for.

Only the SHA-256 of a token is stored. A token is looked up in the database at every request, so revoking it, or
disabling its owner, takes effect at once in every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_host.errors import Problem, forbidden, invalid_field, problem
from clavitor_host.identity.ids import digest, new_id, secret
from clavitor_host.identity.models import Identity, Role, Scope, Token, TokenKind
from clavitor_host.identity.names import clean_name
from clavitor_host.identity.rows import record
from clavitor_host.identity.tables import tokens
from clavitor_host.identity.users import locked_user
from clavitor_host.storage.errors import UniqueViolation

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.storage.database import Transaction

MAX_TOKENS_PER_USER = 1000
MAX_ID = 128
"""Longest agent or environment id, in characters."""

_COLUMNS = tuple(column for column in tokens.columns if column.name != "hash")


async def create_token(
    host: Host,
    *,
    name: str,
    kind: TokenKind = "user",
    user_id: str | None = None,
    agent_id: str | None = None,
    scope: Scope | None = None,
    environment_id: str | None = None,
    expires_at: int | None = None,
    token_id: str | None = None,
    requested_by: Identity,
) -> tuple[Token, str]:
    """Make a token; returns what is kept of it, and the token itself, which is nowhere to be had again.

    kind: a "user" token acts as `user_id`, within that user's role; an "agent" token reaches its `environment_id`
    only; a "metrics" token reads the metrics. scope: not given, an agent's token reads and any other writes too.
    expires_at: µs since the epoch, None for never.
    token_id: a `new_id`, given by a caller who must not make two when it asks twice: the second time
    is a 409 `token_exists`.
    Raises a 400 for what does not belong together, a 403 when `requested_by` gives away more than it has, a 404
    for an unknown user.
    """
    async with host.db.transaction() as tx:
        return await add_token(
            host,
            tx,
            name=name,
            kind=kind,
            user_id=user_id,
            agent_id=agent_id,
            scope=scope,
            environment_id=environment_id,
            expires_at=expires_at,
            token_id=token_id,
            requested_by=requested_by,
        )


async def add_token(
    host: Host,
    tx: Transaction,
    *,
    name: str,
    kind: TokenKind,
    user_id: str | None = None,
    agent_id: str | None = None,
    scope: Scope | None = None,
    environment_id: str | None = None,
    expires_at: int | None = None,
    token_id: str | None = None,
    requested_by: Identity,
) -> tuple[Token, str]:
    """Do what `create_token` does, in the caller's transaction."""
    _check_maker(requested_by, kind, user_id)
    return await insert_token(
        host,
        tx,
        name=name,
        kind=kind,
        user_id=user_id,
        agent_id=agent_id,
        scope=scope,
        environment_id=environment_id,
        expires_at=expires_at,
        token_id=token_id,
        requested_by=requested_by,
    )


async def insert_token(
    host: Host,
    tx: Transaction,
    *,
    name: str,
    kind: TokenKind,
    user_id: str | None = None,
    agent_id: str | None = None,
    scope: Scope | None = None,
    environment_id: str | None = None,
    expires_at: int | None = None,
    token_id: str | None = None,
    requested_by: Identity,
) -> tuple[Token, str]:
    """Do what `add_token` does for a caller who has seen that `requested_by` may make a token of this kind."""
    clean = clean_name(name)
    now = host.clock.now_us()
    _check_parts(kind, user_id, agent_id, environment_id)
    if expires_at is not None and expires_at <= now:
        raise invalid_field("expires_at", "a time in the future, in µs since the epoch")
    scope = scope or ("read" if kind == "agent" else "write")
    _check_within(requested_by, scope, environment_id)
    owner = None
    if user_id is not None:
        owner = (await locked_user(tx, user_id)).name
        held = sa.select(sa.func.count()).select_from(tokens).where(tokens.c.user_id == user_id)
        if await tx.fetch_val(held) >= MAX_TOKENS_PER_USER:
            raise problem(409, "too_many_tokens", f"A user may have {MAX_TOKENS_PER_USER} tokens; revoke some first.")
    value = f"clv_{kind}_{secret()}"
    row = {
        "id": token_id or new_id(host),
        "hash": digest(value.encode()),
        "kind": kind,
        "name": clean,
        "user_id": user_id,
        "agent_id": agent_id,
        "scope": scope,
        "environment_id": environment_id,
        "created_at": now,
        "created_by": requested_by.actor,
        "expires_at": expires_at,
        "last_used_at": None,
    }
    try:
        await tx.execute(sa.insert(tokens).values(row))
    except UniqueViolation:
        raise problem(409, "token_exists", "This token was made already.") from None
    title = f"created {kind} token {clean}" + (f" of {owner}" if owner else "")
    told = ("kind", "user_id", "agent_id", "scope", "environment_id", "expires_at")
    payload = {"token_id": row["id"], **{key: row[key] for key in told if row[key] is not None}}
    await record(host, tx, requested_by, "create_token", title=title, payload=payload)
    return token_of(row), value


async def list_tokens(
    host: Host, *, user_id: str | None = None, after: str | None = None, limit: int = 100
) -> tuple[list[Token], bool]:
    """Return tokens, newest first, and whether there are more.

    user_id: only this user's. after: the id of the last token of the page before.
    """
    query = sa.select(*_COLUMNS).order_by(tokens.c.id.desc()).limit(limit + 1)
    if user_id is not None:
        query = query.where(tokens.c.user_id == user_id)
    if after is not None:
        query = query.where(tokens.c.id < after)
    rows = await host.db.fetch_all(query)
    return [token_of(row) for row in rows[:limit]], len(rows) > limit


async def get_token(host: Host, token_id: str) -> Token:
    """Return what is known of a token. Raises a 404."""
    row = await host.db.fetch_one(sa.select(*_COLUMNS).where(tokens.c.id == token_id))
    if row is None:
        raise token_not_found()
    return token_of(row)


async def revoke_token(host: Host, token_id: str, *, requested_by: Identity) -> None:
    """End a token at once. Raises a 404."""
    async with host.db.transaction() as tx:
        await remove_token(host, tx, token_id, requested_by=requested_by)


async def remove_token(host: Host, tx: Transaction, token_id: str, *, requested_by: Identity) -> None:
    """Do what `revoke_token` does, in the caller's transaction."""
    row = await tx.fetch_one(sa.select(*_COLUMNS).where(tokens.c.id == token_id).with_for_update())
    if row is None:
        raise token_not_found()
    await tx.execute(sa.delete(tokens).where(tokens.c.id == token_id))
    title = f"revoked {row['kind']} token {row['name']}"
    payload = {"token_id": token_id, "kind": row["kind"]}
    if row["user_id"] is not None:
        payload["user_id"] = row["user_id"]
    await record(host, tx, requested_by, "revoke_token", title=title, payload=payload)


def token_of(row: Mapping[str, Any]) -> Token:
    """Return a stored row as a `Token`."""
    return Token(**{column.name: row[column.name] for column in _COLUMNS})


def token_not_found() -> Problem:
    """Return the 404 for a token that does not exist, or that the caller may not know of."""
    return problem(404, "token_not_found", "There is no such token.")


def _check_parts(kind: TokenKind, user_id: str | None, agent_id: str | None, environment_id: str | None) -> None:
    for field, value in (("agent_id", agent_id), ("environment_id", environment_id)):
        if value is not None and not (0 < len(value) <= MAX_ID and value.isprintable()):
            raise invalid_field(field, f"1 to {MAX_ID} printable characters")
    if (user_id is not None) != (kind == "user"):
        raise invalid_field("user_id", "a user with a user token, and with no other kind")
    if agent_id is not None and kind != "agent":
        raise invalid_field("agent_id", "an agent with an agent token only")
    if kind == "agent" and environment_id is None:
        raise invalid_field("environment_id", "the environment that the agent token reaches")
    if kind == "metrics" and environment_id is not None:
        raise invalid_field("environment_id", "no environment with a metrics token")


def _check_maker(requested_by: Identity, kind: TokenKind, user_id: str | None) -> None:
    """Raise a 403 unless the token is the caller's own, or the caller an ADMIN."""
    if requested_by.role is not Role.ADMIN and (kind != "user" or user_id != requested_by.user_id):
        raise forbidden("Only an ADMIN may make tokens for others, for agents and for metrics.")


def _check_within(requested_by: Identity, scope: Scope, environment_id: str | None) -> None:
    """Raise a 403 unless the new token allows no more than the credential that asks for it."""
    if requested_by.scope == "read" and scope != "read":
        raise forbidden("A read token cannot make a write token.")
    if requested_by.environment_id is not None and environment_id != requested_by.environment_id:
        raise forbidden("The token reaches only its own environment.")
