"""Checking an ID token (OpenID Connect Core section 3.1.3.7): pure functions, no network, no clock of their own."""

from __future__ import annotations

import binascii
import hmac
import warnings
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from clavitor_host import strict_json

SKEW = 60
"""Seconds that the provider's clock may differ from ours."""
MAX_AGE = 600
"""Seconds since an ID token was issued after which it is too old for a login that is under way."""
MAX_ID_TOKEN = 64 * 1024

_KEY_TYPES = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""Signature algorithms that are accepted, each with the key it needs. `none` and every HMAC are not."""
_MIN_RSA_BITS = 2048


class BadIdToken(Exception):
    """The ID token is not acceptable; the text says why and holds nothing of it."""


def read_header(token: str) -> tuple[str, str | None]:
    """Return the algorithm and the key id that a token names. Raises `BadIdToken`."""
    if len(token) > MAX_ID_TOKEN or not token.isascii() or token.count(".") != 2:
        raise BadIdToken("it is not a signed token")
    try:
        first = token.partition(".")[0]
        header = strict_json.loads(urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (binascii.Error, ValueError):
        raise BadIdToken("its header is malformed") from None
    if not isinstance(header, dict) or "crit" in header:
        raise BadIdToken("its header is not supported")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _KEY_TYPES:
        raise BadIdToken("its signature algorithm is not accepted")
    if key_id is not None and not isinstance(key_id, str):
        raise BadIdToken("its key id is malformed")
    return algorithm, key_id


def choose_key(keys: Sequence[Mapping[str, Any]], algorithm: str, key_id: str | None) -> Mapping[str, Any] | None:
    """Return the one key of a provider that fits, None when there is none or it cannot be told which."""
    kind, curve = _KEY_TYPES[algorithm]
    fitting = [
        key
        for key in keys
        if key.get("kty") == kind
        and (curve is None or key.get("crv") == curve)
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (key_id is None or key.get("kid") == key_id)
    ]
    return fitting[0] if len(fitting) == 1 else None


def verified_claims(token: str, key: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """Return the claims of a token that `key` signed with `algorithm`. Raises `BadIdToken`."""
    from joserfc import jws
    from joserfc.errors import JoseError, SecurityWarning
    from joserfc.jwk import JWKRegistry, RSAKey

    public = {name: value for name, value in key.items() if name in ("kty", "n", "e", "crv", "x", "y")}
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = MAX_ID_TOKEN
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # the name EdDSA is deprecated, and widely used
            imported = JWKRegistry.import_key(public)
            if isinstance(imported, RSAKey) and imported.public_key.key_size < _MIN_RSA_BITS:
                raise BadIdToken("its key is too short")
            signed = jws.deserialize_compact(token, imported, algorithms=[algorithm], registry=registry)
        claims = strict_json.loads(signed.payload)
    except (JoseError, ValueError, TypeError, KeyError):
        raise BadIdToken("its signature or form is wrong") from None
    if not isinstance(claims, dict):
        raise BadIdToken("its claims are not an object")
    return claims


def check_claims(claims: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str, now: float) -> str:
    """Return the subject of acceptable claims. now: seconds since the epoch. Raises `BadIdToken`."""
    if claims.get("iss") != issuer:
        raise BadIdToken("it was issued by another issuer")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if client_id not in audiences:
        raise BadIdToken("it was issued for another client")
    party = claims.get("azp")
    if (len(audiences) > 1 or party is not None) and party != client_id:
        raise BadIdToken("it was issued to another party")
    expires, issued, not_before = (claims.get("exp"), claims.get("iat"), claims.get("nbf", 0))
    if not (_is_time(expires) and _is_time(issued) and _is_time(not_before)):
        raise BadIdToken("its times are missing")
    if expires <= now - SKEW:
        raise BadIdToken("it has expired")
    if issued > now + SKEW or not_before > now + SKEW:
        raise BadIdToken("it is not valid yet")
    if issued < now - SKEW - MAX_AGE:
        raise BadIdToken("it was issued too long ago")
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        raise BadIdToken("it was issued for another login")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise BadIdToken("its subject is malformed")
    return subject


def _is_time(value: Any) -> TypeGuard[int | float]:
    return type(value) in (int, float) and value >= 0
