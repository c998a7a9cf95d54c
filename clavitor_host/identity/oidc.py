"""Logging in through an identity provider: OpenID Connect, authorization code with PKCE (RFC 7636, S256).

The provider sends the browser back from another site, so a SameSite=Strict cookie would not come along: which
browser began a login is kept in a cookie of its own, SameSite=Lax and good for ten minutes. For the same reason
the session starts with a page of ours that goes on, instead of a redirect.
"""

from __future__ import annotations

import hmac
import html
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import sqlalchemy as sa

from clavitor_host.errors import Problem, invalid_field
from clavitor_host.http import Reply
from clavitor_host.identity.ids import digest, secret
from clavitor_host.identity.login import NOBODY, record_login
from clavitor_host.identity.models import User
from clavitor_host.identity.oidc_claims import BadIdToken, check_claims
from clavitor_host.identity.oidc_provider import CodeRefused, Provider, ProviderDown, unavailable
from clavitor_host.identity.oidc_signup import user_for
from clavitor_host.identity.rows import note_bounded
from clavitor_host.identity.sessions import NewSession, cookie_value, start_session
from clavitor_host.identity.state import state_of
from clavitor_host.identity.tables import oidc_logins, users
from clavitor_host.identity.users import locked_user

if TYPE_CHECKING:
    from clavitor_host.config.models import OidcConfig
    from clavitor_host.host import Host
    from clavitor_host.http import Request

COOKIE = "__Host-clavitor_oidc"
CALLBACK = "/login/oidc/callback"
LIFETIME = 600
"""Seconds a person may take at the provider."""
MAX_UNDER_WAY = 10_000
"""Logins that may be under way; beginning one needs no credential."""
MAX_CODE = 4096
MAX_PATH = 512


async def begin(host: Host, request: Request, next_path: str) -> Reply:
    """Send the browser to the provider. next_path: where to go after the login, a path of ours."""
    config, provider = _provider(host)
    next_path = local_path(next_path)
    try:
        found = await provider.discovery()
    except ProviderDown as error:
        raise unavailable() from error
    state, browser, nonce, verifier = secret(), secret(), secret(), secret()
    redirect_uri = (host.config.public_url or host.config.base_url) + CALLBACK
    now = host.clock.now_us()
    async with host.db.transaction() as tx:
        await tx.execute(sa.delete(oidc_logins).where(oidc_logins.c.expires_at <= now))
        if await tx.fetch_val(sa.select(sa.func.count()).select_from(oidc_logins)) >= MAX_UNDER_WAY:
            raise Problem(503, "overloaded", "Too many logins are under way.", headers={"Retry-After": "60"})
        row = {
            "state_hash": digest(state.encode()),
            "browser_hash": digest(browser.encode()),
            "nonce": nonce,
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
            "next_path": next_path,
            "expires_at": now + LIFETIME * 1_000_000,
        }
        await tx.execute(sa.insert(oidc_logins).values(row))
    query = {
        "response_type": "code",
        "client_id": config.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(config.scopes),
        "state": state,
        "nonce": nonce,
        "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    separator = "&" if "?" in found.authorization_endpoint else "?"
    headers = {
        "Location": f"{found.authorization_endpoint}{separator}{urlencode(query)}",
        "Set-Cookie": f"{COOKIE}={browser}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={LIFETIME}",
        "Cache-Control": "no-store",
    }
    return Reply(302, b"", None, headers)


async def finish(host: Host, request: Request) -> Reply:
    """Take the browser back from the provider: begin a session, and show a page that goes on.

    Raises a 401 `oidc_login_failed` for an answer that is not good, a 403 for a person who may not log in, a 502
    for a provider that does not answer, and the refusal of the `max_users` cap.
    """
    config, provider = _provider(host)
    try:
        begun = await _take(host, request)
        code = _code(config, request.query)
        token = await provider.exchange(code, begun["code_verifier"], begun["redirect_uri"])
        claims = await provider.claims(token)
        now = host.clock.now_us() / 1_000_000
        subject = check_claims(claims, issuer=config.issuer, client_id=config.client_id, nonce=begun["nonce"], now=now)
        user = await user_for(host, config, subject, claims, request.client)
        session = await _start(host, request, user)
    except ProviderDown as error:
        await _note(host, request, "the provider cannot be reached")
        raise unavailable() from error
    except CodeRefused as error:
        await _note(host, request, "the provider refused the code")
        raise _failed() from error
    except (BadIdToken, _BadCallback) as error:
        await _note(host, request, str(error))
        raise _failed() from error
    except Problem as error:
        if error.status < 500:
            await _note(host, request, error.code)
        raise
    return _page(begun["next_path"], session)


def local_path(path: str) -> str:
    """Return a path of this server. Raises a 400 for anything a browser could take for another site."""
    here = path.startswith("/") and path[1:2] != "/" and len(path) <= MAX_PATH
    if here and path.isascii() and path.isprintable() and "\\" not in path and " " not in path:
        return path
    raise invalid_field("next", "a path on this server, such as /admin/")


async def purge(host: Host) -> None:
    """Delete logins that nobody came back from."""
    await host.db.execute(sa.delete(oidc_logins).where(oidc_logins.c.expires_at <= host.clock.now_us()))


class _BadCallback(Exception):
    """The browser brings back something else than what was begun with it."""


def _provider(host: Host) -> tuple[OidcConfig, Provider]:
    config = host.config.oidc
    if config is None:
        raise Problem(404, "oidc_not_configured", "Login through an identity provider is not configured.")
    state = state_of(host)
    if state.provider is None:
        state.provider = Provider(host, config)
    return config, state.provider


async def _take(host: Host, request: Request) -> Mapping[str, Any]:
    """Return the login that the browser comes back from. It can be taken once."""
    state, browser = request.query.get("state", ""), cookie_value(request, COOKIE)
    if not state or not browser:
        raise _BadCallback("no login was begun in this browser")
    key = oidc_logins.c.state_hash == digest(state.encode("utf-8", "surrogatepass"))
    async with host.db.transaction() as tx:
        row = await tx.fetch_one(sa.select(oidc_logins).where(key).with_for_update())
        if row is None or await tx.execute(sa.delete(oidc_logins).where(key)) != 1:
            raise _BadCallback("the login is not known, or was used already")
    if not hmac.compare_digest(row["browser_hash"], digest(browser.encode("latin-1"))):
        raise _BadCallback("the login was begun in another browser")
    if row["expires_at"] <= host.clock.now_us():
        raise _BadCallback("the login took too long")
    return row


def _code(config: OidcConfig, query: Mapping[str, str]) -> str:
    if query.get("iss", config.issuer) != config.issuer:  # RFC 9207
        raise _BadCallback("the answer comes from another issuer")
    if "error" in query:
        raise _BadCallback("the provider refused the login")
    code = query.get("code", "")
    if not 0 < len(code) <= MAX_CODE:
        raise _BadCallback("the answer has no code")
    return code


async def _start(host: Host, request: Request, user: User) -> NewSession:
    async with host.db.transaction() as tx:
        known = await locked_user(tx, user.id)
        if known.disabled:
            raise Problem(403, "user_disabled", "This user is disabled.")
        now = host.clock.now_us()
        await tx.execute(sa.update(users).where(users.c.id == user.id).values(last_login_at=now))
        session = await start_session(host, tx, user.id, request)
        await record_login(host, tx, known, session, source=request.client, method="oidc")
    return session


async def _note(host: Host, request: Request, reason: str) -> None:
    payload = {"method": "oidc", "reason": reason}
    await note_bounded(
        host,
        f"oidc {request.client} {reason}",
        "login_failed",
        actor=NOBODY,
        title="failed OIDC login",
        payload=payload,
        source=request.client,
    )


def _failed() -> Problem:
    return Problem(401, "oidc_login_failed", "The login at the identity provider did not succeed; begin it again.")


def _page(next_path: str, session: NewSession) -> Reply:
    target = html.escape(next_path, quote=True)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Logged in</title>'
        f'<meta http-equiv="refresh" content="0;url={target}"></head>'
        f'<body><p>Logged in. <a href="{target}">Go on</a></p></body></html>\n'
    )
    headers = {
        "Set-Cookie": session.set_cookie,
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    }
    return Reply(200, text.encode(), "text/html; charset=utf-8", headers)
