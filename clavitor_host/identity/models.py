"""Who asks, and what they ask to do."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple


class Role(StrEnum):
    """What a user may do (vault.md section 2)."""

    ADMIN = "ADMIN"
    OPERATOR = "OPERATOR"
    VIEWER = "VIEWER"


Scope = Literal["read", "write"]
TokenKind = Literal["user", "agent", "metrics"]
Via = Literal["token", "session", "plugin", "system"]


class Identity(NamedTuple):
    """An authenticated caller.

    `kind`: "user", "agent", "metrics", or "peer" for another server. `scope`: what the credential allows within
    the role. `environment_id`: the only environment the credential reaches, None for all. `via`: how it was
    shown. `actor`: the name that audit rows carry. `source`: the address that the request came from, "" for none.
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
    source: str = ""


class Resource(NamedTuple):
    """What an action is done to.

    `id` is None for a collection. `environment_id`: the environment it is in, `owner_id`: the user it belongs to;
    None where that is not known yet: whoever then reads or writes it must keep to `Identity.environment_id` and
    `Identity.user_id`, or authorise again with what was found.
    """

    kind: str
    id: str | None = None
    environment_id: str | None = None
    owner_id: str | None = None


class OidcSubject(NamedTuple):
    """A person as an identity provider knows them; both texts are compared as they are."""

    issuer: str
    subject: str


class User(NamedTuple):
    """A user. Times are µs since the epoch."""

    id: str
    name: str
    role: Role
    disabled: bool
    has_password: bool
    oidc: OidcSubject | None
    created_at: int
    updated_at: int
    last_login_at: int | None


class Token(NamedTuple):
    """What is known of a token; the token itself is not. Times are µs since the epoch, `expires_at` None for never.

    `last_used_at` lags by up to a minute. `created_by`: the audit actor who made it.
    """

    id: str
    kind: TokenKind
    name: str
    user_id: str | None
    agent_id: str | None
    scope: Scope
    environment_id: str | None
    created_at: int
    created_by: str
    expires_at: int | None
    last_used_at: int | None


class Session(NamedTuple):
    """A logged-in browser. Times are µs since the epoch; `last_seen_at` lags by up to a minute."""

    id: str
    user_id: str
    created_at: int
    last_seen_at: int
    expires_at: int
    source: str
    user_agent: str


SYSTEM = Identity(kind="user", actor="system", role=Role.ADMIN, via="system")
"""The server itself, and offline commands."""
