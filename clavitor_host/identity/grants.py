"""What the tokens of this server allow, for a server that is to honour them as well."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from clavitor_host.identity.models import Role, Scope, TokenKind
from clavitor_host.identity.tables import tokens, users
from clavitor_host.storage.database import Transaction

CHANGED = "identity.changed"
"""The topic of `host.signals` that is sent with every change of users and tokens."""


class TokenGrant(NamedTuple):
    """One good token. `hash`: SHA-256 of the token, hex. `owner`: the audit actor. `role`: of a user's token.

    `expires_at`: µs since the epoch, None for never.
    """

    hash: str
    kind: TokenKind
    owner: str
    role: Role | None
    scope: Scope
    environment_id: str | None
    agent_id: str | None
    expires_at: int | None


async def token_grants(tx: Transaction, *, now: int) -> list[TokenGrant]:
    """Return what every token of a user or an agent allows, by hash: those that are expired at `now` (µs since the
    epoch), revoked, or of a disabled user are left out. Subscribe to the signal `CHANGED` to hear of changes."""
    rows = await tx.fetch_all(
        sa.select(
            tokens.c.hash,
            tokens.c.kind,
            tokens.c.name,
            tokens.c.scope,
            tokens.c.environment_id,
            tokens.c.agent_id,
            tokens.c.expires_at,
            users.c.name.label("user_name"),
            users.c.role,
        )
        .select_from(tokens.outerjoin(users, users.c.id == tokens.c.user_id))
        .where(
            tokens.c.kind.in_(("user", "agent")),
            sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now),
            sa.or_(tokens.c.user_id.is_(None), users.c.disabled.is_(False)),
        )
        .order_by(tokens.c.hash)
    )
    return [
        TokenGrant(
            hash=row["hash"],
            kind=row["kind"],
            owner=row["user_name"] if row["kind"] == "user" else f"agent:{row['agent_id'] or row['name']}",
            role=Role(row["role"]) if row["kind"] == "user" else None,
            scope=row["scope"],
            environment_id=row["environment_id"],
            agent_id=row["agent_id"],
            expires_at=row["expires_at"],
        )
        for row in rows
    ]
