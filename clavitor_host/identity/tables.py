"""Tables of users, tokens and sessions. Times are µs since the epoch; ids are UUIDv7 as text."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_host.storage.tables import metadata

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("password_hash", sa.Text),
    sa.Column("oidc_issuer", sa.Text),
    sa.Column("oidc_subject", sa.Text),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("last_login_at", sa.BigInteger),
    sa.Index("ix_users_name_key", "name_key", unique=True),
    sa.Index("ix_users_oidc", "oidc_issuer", "oidc_subject", unique=True),
)
"""`name_key`: the name as it is compared (case folded). `password_hash`: a PHC string, NULL for no password."""

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE")),
    sa.Column("agent_id", sa.Text),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("environment_id", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Index("ix_tokens_hash", "hash", unique=True),
    sa.Index("ix_tokens_user_id", "user_id"),
    sa.Index("ix_tokens_agent_id", "agent_id"),
)
"""`hash`: SHA-256 of the whole token, hex; the token itself is stored nowhere. A revoked token has no row."""

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("last_seen_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("user_agent", sa.Text, nullable=False),
    sa.Index("ix_sessions_hash", "hash", unique=True),
    sa.Index("ix_sessions_user_id", "user_id"),
    sa.Index("ix_sessions_expires_at", "expires_at"),
)
"""`hash`: SHA-256 of the cookie's value, hex. `expires_at`: however much it is used, it ends then."""

login_failures = sa.Table(
    "login_failures",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("first_at", sa.BigInteger, nullable=False),
    sa.Column("blocked_until", sa.BigInteger, nullable=False),
)
"""Failed logins by `name:…` and `address:…`; the window starts at `first_at`."""

oidc_logins = sa.Table(
    "oidc_logins",
    metadata,
    sa.Column("state_hash", sa.Text, primary_key=True),
    sa.Column("browser_hash", sa.Text, nullable=False),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("code_verifier", sa.Text, nullable=False),
    sa.Column("redirect_uri", sa.Text, nullable=False),
    sa.Column("next_path", sa.Text, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Index("ix_oidc_logins_expires_at", "expires_at"),
)
"""Logins that are at the identity provider now. `browser_hash`: of the cookie that ties one to its browser."""

setup_tokens = sa.Table(
    "setup_tokens",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
"""One-time setup links, good while there is no user."""
