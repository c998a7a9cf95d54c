"""The JSON bodies of the identity API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from clavitor_host.identity.models import Role, Scope, Session, Token, TokenKind, User
from clavitor_host.identity.passwords import MAX_PASSWORD, MIN_PASSWORD
from clavitor_host.identity.sessions import NewSession
from clavitor_host.identity.tokens import MAX_ID

Micros = Annotated[int, Field(description="µs since the epoch")]
_PRINTABLE = r"!-9;-~\u00a1-\u00ac\u00ae-\u0377\u0400-\u052f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
"""Some of what is printable, as a regular expression can say it; `names` decides."""
Name = Annotated[
    str,
    Field(
        json_schema_extra={
            "minLength": 1,
            "maxLength": 128,
            "pattern": f"^[{_PRINTABLE}](?:[ {_PRINTABLE}]*[{_PRINTABLE}])?$",
        },
        description="1 to 128 printable characters with no space at either end; a user's has no `:`.",
        examples=["alice"],
    ),
]
NewPassword = Annotated[
    SecretStr,
    Field(
        description=f"At least {MIN_PASSWORD} characters, at most {MAX_PASSWORD} bytes of UTF-8.",
        json_schema_extra={"minLength": MIN_PASSWORD},
    ),
]
Lifetime = Annotated[int, Field(ge=1, le=100 * 366 * 86_400, description="Seconds until it ends; null for never.")]
ExternalId = Annotated[str, Field(pattern=rf"^[A-Za-z0-9._-]{{1,{MAX_ID}}}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class _Reply(BaseModel):
    model_config = ConfigDict(defer_build=True)


class Login(_Body):
    name: Annotated[str, Field(max_length=256)]
    password: SecretStr


class Setup(_Body):
    token: Annotated[str, Field(max_length=256, description="From the setup link.")]
    name: Name
    password: NewPassword


class CreateUser(_Body):
    name: Name
    role: Role
    password: NewPassword | None = None


class UpdateUser(_Body):
    name: Name | None = None
    role: Role | None = None
    disabled: bool | None = None


class SetPassword(_Body):
    password: NewPassword


class ChangePassword(_Body):
    current_password: SecretStr
    new_password: NewPassword


_NULL = {"type": "null"}
_KINDS = [
    {"properties": {"kind": {"const": "user"}, "agent_id": _NULL}},
    {
        "properties": {"kind": {"const": "agent"}, "user_id": _NULL, "environment_id": {"type": "string"}},
        "required": ["kind", "environment_id"],
    },
    {
        "properties": {"kind": {"const": "metrics"}, "user_id": _NULL, "agent_id": _NULL, "environment_id": _NULL},
        "required": ["kind"],
    },
]
"""What belongs to each kind of token, as JSON Schema; `tokens.create_token` checks it."""


class CreateToken(_Body):
    model_config = ConfigDict(json_schema_extra={"oneOf": _KINDS})  # type: ignore[dict-item]

    name: Name
    kind: TokenKind = "user"
    user_id: Annotated[ExternalId | None, Field(description="Whose token it is; not given: your own.")] = None
    agent_id: ExternalId | None = None
    scope: Annotated[
        Scope | None, Field(description="Not given: `read` for an agent's token, `write` for any other.")
    ] = None
    environment_id: Annotated[
        ExternalId | None, Field(description="The only environment it reaches; an agent token needs one.")
    ] = None
    expires_in: Lifetime | None = None


class UserOut(_Reply):
    id: str
    name: Name
    role: Role
    disabled: bool
    has_password: bool
    oidc_issuer: str | None
    oidc_subject: str | None
    created_at: Micros
    updated_at: Micros
    last_login_at: Micros | None

    @classmethod
    def of(cls, user: User) -> UserOut:
        return cls(
            id=user.id,
            name=user.name,
            role=user.role,
            disabled=user.disabled,
            has_password=user.has_password,
            oidc_issuer=user.oidc.issuer if user.oidc else None,
            oidc_subject=user.oidc.subject if user.oidc else None,
            created_at=user.created_at,
            updated_at=user.updated_at,
            last_login_at=user.last_login_at,
        )


class UserPage(_Reply):
    users: list[UserOut]
    next_cursor: str | None


class TokenOut(_Reply):
    id: str
    kind: TokenKind
    name: Name
    user_id: str | None
    agent_id: str | None
    scope: Scope
    environment_id: str | None
    created_at: Micros
    created_by: str
    expires_at: Micros | None
    last_used_at: Annotated[int | None, Field(description="µs since the epoch; lags by up to a minute")]

    @classmethod
    def of(cls, token: Token) -> TokenOut:
        return cls.model_validate(token, from_attributes=True)


class TokenCreated(TokenOut):
    token: Annotated[str, Field(description="The token itself: shown this once, and stored nowhere.")]


class TokenPage(_Reply):
    tokens: list[TokenOut]
    next_cursor: str | None


class SessionOut(_Reply):
    id: str
    created_at: Micros
    last_seen_at: Micros
    expires_at: Micros
    source: str
    user_agent: str
    current: Annotated[bool, Field(description="Whether it is the one that asks.")]

    @classmethod
    def of(cls, session: Session, current: str | None) -> SessionOut:
        return cls(
            id=session.id,
            created_at=session.created_at,
            last_seen_at=session.last_seen_at,
            expires_at=session.expires_at,
            source=session.source,
            user_agent=session.user_agent,
            current=session.id == current,
        )


class SessionPage(_Reply):
    sessions: list[SessionOut]


class LoggedIn(_Reply):
    user: UserOut
    csrf_token: Annotated[str, Field(description="Sent as X-CSRF-Token with every unsafe request of this session.")]
    expires_at: Micros

    @classmethod
    def of(cls, user: User, session: NewSession) -> LoggedIn:
        return cls(user=UserOut.of(user), csrf_token=session.csrf_token, expires_at=session.session.expires_at)


class Renewed(_Reply):
    csrf_token: str | None


class Me(_Reply):
    kind: Literal["user", "agent", "metrics", "peer"]
    actor: Annotated[str, Field(description="Your name in the audit log.")]
    role: Role | None
    scope: Scope
    environment_id: str | None
    via: Literal["token", "session", "plugin", "system"]
    token_id: str | None
    session_id: str | None
    csrf_token: Annotated[str | None, Field(description="Of the session that asks.")]
    user: UserOut | None
