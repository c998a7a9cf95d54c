"""Who asks, and what they ask to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    """What a user may do (vault.md section 2)."""

    ADMIN = "ADMIN"
    OPERATOR = "OPERATOR"
    VIEWER = "VIEWER"


Scope = Literal["read", "write"]
TokenKind = Literal["user", "agent", "metrics"]
Via = Literal["token", "session", "plugin", "system"]


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated caller.

    `kind`: "user", "agent", "metrics", or "peer" for another server. `scope`: what the credential allows within
    the role. `environment_id`: the only environment the credential reaches, None for all. `via`: how it was
    shown. `actor`: the name that audit rows carry.
    """

    kind: Literal["user", "agent", "metrics", "peer"]
    actor: str
    role: Role | None = None
    user_id: str | None = None
    token_id: str | None = None
    scope: Scope = "write"
    environment_id: str | None = None
    via: Via = "token"
    session_id: str | None = None
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is done to. `id` is None for a collection; `owner_id` the user it belongs to, if any."""

    kind: str
    id: str | None = None
    environment_id: str | None = None
    owner_id: str | None = None


SYSTEM = Identity(kind="user", actor="system", role=Role.ADMIN, via="system")
"""The server itself, and offline commands."""
