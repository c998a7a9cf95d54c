"""A small real OpenID Connect provider on a real socket: it checks PKCE, redirect URI and client, and signs ID tokens.

A test says what it does wrong: `claims` and `header` change the ID token, `hooks` replace whole answers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hypercorn.asyncio import serve
from hypercorn.config import Config
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from quart import Quart, Response, request

CLIENT_ID = "clavitor"
CLIENT_SECRET = "s3cret:with/odd+chars"

_RSA = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)
"""Made once: it takes a while."""


@dataclass
class Grant:
    query: dict[str, str]
    claims: dict[str, Any]


@dataclass
class Provider:
    issuer: str = ""
    subject: str = "subject-1"
    profile: dict[str, Any] = field(default_factory=lambda: {"preferred_username": "grace"})
    algorithm: str = "RS256"
    keys: dict[str, Key] = field(default_factory=dict)
    claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    make_token: Callable[[dict[str, Any]], str] | None = None
    hooks: dict[str, Callable[[], Awaitable[Response | tuple[str, int] | dict[str, Any]]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    grants: dict[str, Grant] = field(default_factory=dict)
    auth_methods: list[str] = field(default_factory=lambda: ["client_secret_basic", "client_secret_post"])
    last_form: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = {
            "RS256": _RSA,
            "PS256": _RSA,
            "ES256": ECKey.generate_key("P-256", {"kid": "ec"}, private=True),
            "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}, private=True),
        }

    def authorize(self, location: str) -> dict[str, str]:
        """Be the person who logs in at the provider: return the query that the browser brings back."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        assert location.startswith(f"{self.issuer}/authorize?")
        assert query["response_type"] == "code" and query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256" and len(query["code_challenge"]) == 43
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": query["nonce"],
            **self.profile,
        }
        self.grants[code] = Grant(query, self.claims(claims))
        return {"code": code, "state": query["state"]}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """Return a signed ID token."""
        key = self.keys[self.algorithm]
        algorithms = [self.algorithm]
        return jwt.encode({"alg": self.algorithm, "kid": key.kid, **header}, claims, key, algorithms=algorithms)

    def app(self) -> Quart:
        app = Quart("provider")

        @app.before_request
        async def note() -> Any:
            self.requests.append(request.path)
            hook = self.hooks.get(request.path)
            return None if hook is None else await hook()

        @app.get("/.well-known/openid-configuration")
        async def discovery() -> dict[str, Any]:
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "token_endpoint_auth_methods_supported": self.auth_methods,
            }

        @app.get("/keys")
        async def keys() -> dict[str, Any]:
            distinct = {key.kid: key for key in self.keys.values()}
            return {"keys": [key.as_dict(private=False) for key in distinct.values()]}

        @app.post("/token")
        async def token() -> tuple[dict[str, Any], int]:
            form = dict(await request.form)
            self.last_form = form
            grant = self.grants.pop(form.get("code", ""), None)
            challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
            good = (
                grant is not None
                and form.get("grant_type") == "authorization_code"
                and form.get("redirect_uri") == grant.query["redirect_uri"]
                and challenge.decode().rstrip("=") == grant.query["code_challenge"]
                and self._client_is_known(form)
            )
            if not good or grant is None:
                return {"error": "invalid_grant"}, 400
            signed = self.make_token(grant.claims) if self.make_token else self.sign(grant.claims)
            return {"access_token": "x", "token_type": "Bearer", "id_token": signed}, 200

        return app

    def _client_is_known(self, form: dict[str, str]) -> bool:
        if self.auth_methods == ["client_secret_post"]:
            return form.get("client_secret") == CLIENT_SECRET and "Authorization" not in request.headers
        scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
        quoted = f"{CLIENT_ID}:s3cret%3Awith%2Fodd%2Bchars"
        return scheme == "Basic" and base64.b64decode(pair).decode() == quoted and "client_secret" not in form


@asynccontextmanager
async def running(provider: Provider) -> AsyncIterator[Provider]:
    """Serve a provider on a free port of the loopback interface."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    provider.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    config.graceful_timeout = 0
    stop = asyncio.Event()
    task = asyncio.create_task(serve(provider.app(), config, shutdown_trigger=stop.wait))
    try:
        yield provider
    finally:
        stop.set()
        await task
