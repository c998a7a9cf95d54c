"""Tokens of agents, and ending all tokens of an agent or an environment: for who looks after these."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_host.errors import forbidden
from clavitor_host.identity.models import Identity, Role, Scope, Token
from clavitor_host.identity.rows import record
from clavitor_host.identity.tables import tokens
from clavitor_host.identity.tokens import insert_token

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.storage.database import Transaction


async def add_agent_token(
    host: Host,
    tx: Transaction,
    *,
    agent_id: str,
    environment_id: str,
    name: str,
    scope: Scope = "read",
    expires_at: int | None = None,
    requested_by: Identity,
) -> tuple[Token, str]:
    """Make the token of an agent, in the transaction that registers it; returns what is kept of it, and the token.

    For whoever may `agents.register`, which the route has asked. scope: `write` lets it write entries of its
    environment. expires_at: µs since the epoch, None for never.
    Raises a 403 for a VIEWER, for more than `requested_by` has (scope, environment), and for an agent that asks for
    another one's; a 400 for an id or a name that cannot be. It ends with an audit row, so call it late.
    """
    if requested_by.kind == "agent":
        allowed = requested_by.environment_id is not None and requested_by.agent_id in (None, agent_id)
    else:
        allowed = requested_by.kind == "user" and requested_by.role in (Role.ADMIN, Role.OPERATOR)
    if not allowed:
        raise forbidden("The caller may not register this agent.")
    return await insert_token(
        host,
        tx,
        name=name,
        kind="agent",
        agent_id=agent_id,
        scope=scope,
        environment_id=environment_id,
        expires_at=expires_at,
        requested_by=requested_by,
    )


async def revoke_tokens(
    host: Host,
    tx: Transaction,
    *,
    agent_id: str | None = None,
    agent_ids: Collection[str] | None = None,
    environment_id: str | None = None,
    requested_by: Identity,
) -> int:
    """End all tokens of an agent or of several, or all that are tied to an environment, users' too; return how many
    there were.

    They end with the commit. One audit row says so when there were any; call it late, as what ends with an audit row.
    The caller has seen that `requested_by` may do this. Raises `ValueError` unless exactly one of the three is given.
    """
    if sum(given is not None for given in (agent_id, agent_ids, environment_id)) != 1:
        raise ValueError("give one of agent_id, agent_ids and environment_id")
    which: sa.ColumnElement[bool]
    payload: dict[str, object]
    if agent_ids is not None:
        which, payload = tokens.c.agent_id.in_(sorted(agent_ids)), {"agents": sorted(agent_ids)}
        of = f"{len(agent_ids)} agents"
    elif agent_id is not None:
        which, payload, of = tokens.c.agent_id == agent_id, {"agent_id": agent_id}, f"agent {agent_id}"
    else:
        which, payload = tokens.c.environment_id == environment_id, {"environment_id": environment_id}
        of = f"environment {environment_id}"
    count = await tx.execute(sa.delete(tokens).where(which))
    if count:
        title = f"revoked {count} token{'' if count == 1 else 's'} of {of}"
        payload["tokens"] = count
        await record(host, tx, requested_by, "revoke_tokens", title=title, payload=payload)
    return count


async def valid_tokens(host: Host, token_ids: Collection[str]) -> set[str]:
    """Return which of these tokens still are good: neither revoked nor expired. One query, for who serves many at once.

    For tokens that belong to no user: whether one is disabled is not looked at.
    """
    good = sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > host.clock.now_us())
    query = sa.select(tokens.c.id).where(tokens.c.id.in_(sorted(token_ids)), tokens.c.user_id.is_(None), good)
    return {row["id"] for row in await host.db.fetch_all(query)} if token_ids else set()
