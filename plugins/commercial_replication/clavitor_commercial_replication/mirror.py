"""The tokens of the primary's clients, kept at the backup so that their reads go on there.

A token is known by its SHA-256 alone. It is good for entries, and to ask who one is: whoever shows it is no user of
this POP, so nothing else here is theirs. While this POP is not the primary it may only read, whatever it may there.
After a promotion it stays good until it expires, the next primary's take its place, or it is forgotten here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from clavitor_commercial_replication import state, tables
from clavitor_commercial_replication.models import MirroredToken
from clavitor_commercial_replication.words import tokens
from clavitor_host.api import (
    AuditEntry,
    ClavitorError,
    Database,
    Identity,
    PointRead,
    Request,
    Role,
    Transaction,
    forbidden,
    token_grants,
)

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

_OURS = "clv_"
MAX_TOKEN = 256
"""Characters of a token, at most; a longer one is not looked up."""

MIRRORED = "mirrored:"
"""What the token id of a mirrored identity begins with; `ID_LENGTH` characters of the token's hash follow."""

ID_LENGTH = 12
"""Characters of a token's SHA-256, in hex, that people know it by."""

ACTIONS = frozenset({"entries.read", "entries.write", "me"})
"""What a mirrored token is good for, within what it may."""

_PAGE = 500
"""Tokens that one statement takes out."""

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
    hashed = sha256(token.encode()).hexdigest()
    row = await service.host.db.point_read(_TOKEN, hashed)
    if row is None:
        return None
    kind, owner, role, scope, environment_id, agent_id, expires_at, pop_role = row
    if expires_at is not None and expires_at <= service.host.clock.now_us():
        return None
    return Identity(
        kind,
        owner,
        None if role is None else Role(role),
        token_id=MIRRORED + hashed[:ID_LENGTH],
        scope=scope if pop_role == "primary" else "read",
        environment_id=environment_id,
        via="plugin",
        agent_id=agent_id,
    )


def check_action(identity: Identity, action: str) -> None:
    """Raise a 403 where a mirrored token shows who asks, and it is not good for this."""
    if identity.token_id is not None and identity.token_id.startswith(MIRRORED) and action not in ACTIONS:
        raise forbidden("This token was made at the other POP: here it is good for entries only.")


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


class Listed(NamedTuple):
    """A token that is honoured here. `id`: what `forget` takes; `expires_at`: in µs, None for never."""

    id: str
    kind: str
    owner: str
    role: str | None
    scope: str
    environment_id: str | None
    agent_id: str | None
    expires_at: int | None


async def listed(source: Database | Transaction) -> list[Listed]:
    """Return the mirrored tokens, expired ones too, by kind and owner."""
    return sorted((await _by_hash(source)).values(), key=lambda token: (token.kind, token.owner, token.id))


async def forget(service: Replication, token_ids: Collection[str] | None, *, by: str) -> int:
    """Honour these tokens no more, all when None; return how many they were. by: the audit actor.

    On a backup they come back when the primary sends its tokens anew: there, revoke them at the primary. Raises
    `ClavitorError` for an id that no token has; then nothing is changed.
    """
    host = service.host
    async with host.db.transaction() as tx:
        await host.vault.lock(tx)
        known = await _by_hash(tx)
        ids = {token.id for token in known.values()}
        unknown = sorted(set(token_ids or ()) - ids)
        if unknown:
            raise ClavitorError(f"no mirrored token has the id {unknown[0]}: see `clavitor replication tokens`")
        ids = ids if token_ids is None else set(token_ids)
        gone = [hashed for hashed, token in known.items() if token.id in ids]
        for first in range(0, len(gone), _PAGE):
            page = gone[first : first + _PAGE]
            await tx.execute(sa.delete(tables.tokens).where(tables.tokens.c.hash.in_(page)))
        if gone:
            title = f"forgot {tokens(len(gone))} of the other POP"
            payload = {"tokens": len(gone), "ids": sorted(ids)[:100]}
            await host.audit.record(tx, AuditEntry("REPLICATION", "forget_tokens", by, title, payload=payload))
    return len(gone)


async def _by_hash(source: Database | Transaction) -> dict[str, Listed]:
    rows = await source.fetch_all(sa.select(*(tables.tokens.c[name] for name in MirroredToken._fields)))
    return {
        row["hash"]: Listed(row["hash"][:ID_LENGTH], *(row[name] for name in MirroredToken._fields if name != "hash"))
        for row in rows
    }
