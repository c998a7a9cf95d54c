"""The tokens of the primary's clients, kept at the backup so that their reads go on there.

A token is known by its SHA-256 alone. While this POP is not the primary it may only read, whatever it may there.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_commercial_replication import state, tables
from clavitor_commercial_replication.models import MirroredToken
from clavitor_host.api import Identity, PointRead, Request, Role, Transaction, token_grants

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

_OURS = "clv_"
MAX_TOKEN = 256
"""Characters of a token, at most; a longer one is not looked up."""

_TOKEN = PointRead(
    sa.select(
        tables.tokens.c.kind,
        tables.tokens.c.owner,
        tables.tokens.c.role,
        tables.tokens.c.scope,
        tables.tokens.c.environment_id,
        tables.tokens.c.agent_id,
        tables.tokens.c.expires_at,
        tables.state.c.role.label("pop_role"),
    )
    .select_from(tables.tokens.join(tables.state, tables.state.c.id == 1))
    .where(tables.tokens.c.hash == sa.bindparam("hash"))
)


async def by_token(service: Replication, request: Request) -> Identity | None:
    """Return who shows one of the primary's tokens, None when it is none that is good now."""
    shown = request.header(b"authorization")
    if shown is None:
        return None
    scheme, _, token = shown.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token.startswith(_OURS) or len(token) > MAX_TOKEN:
        return None
    row = await service.host.db.point_read(_TOKEN, sha256(token.encode()).hexdigest())
    if row is None:
        return None
    kind, owner, role, scope, environment_id, agent_id, expires_at, pop_role = row
    if expires_at is not None and expires_at <= service.host.clock.now_us():
        return None
    return Identity(
        kind,
        owner,
        None if role is None else Role(role),
        scope=scope if pop_role == "primary" else "read",
        environment_id=environment_id,
        via="plugin",
        agent_id=agent_id,
    )


async def grants(service: Replication, tx: Transaction) -> tuple[MirroredToken, ...]:
    """Return this POP's good tokens, for the backup."""
    found = await token_grants(tx, now=service.host.clock.now_us())
    return tuple(
        MirroredToken(
            hash=grant.hash,
            kind="user" if grant.kind == "user" else "agent",
            owner=grant.owner,
            role=None if grant.role is None else grant.role.value,
            scope=grant.scope,
            environment_id=grant.environment_id,
            agent_id=grant.agent_id,
            expires_at=grant.expires_at,
        )
        for grant in found
    )


def digest(tokens: Sequence[MirroredToken]) -> str:
    """Return a SHA-256, in hex, that is the same for the same tokens in any order."""
    hashed = sha256()
    for token in sorted(tokens, key=lambda token: token.hash):
        hashed.update(repr(tuple(token)).encode())
    return hashed.hexdigest()


async def replace(tx: Transaction, tokens: Sequence[MirroredToken], digest: str) -> None:
    """Have exactly these tokens be honoured here. digest: of them."""
    unique = {token.hash: token._asdict() for token in tokens}
    await tx.execute(sa.delete(tables.tokens))
    await tx.insert_many(tables.tokens, list(unique.values()))
    await state.update_peer(tx, tokens_digest=digest)
