"""The one function that signs (seed section 7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_licensing.domain.canonical import MAX_TOKEN_SIZE, canonical_json, encode_token
from clavitor_licensing.domain.info import LicenseInfo, LicenseRejected
from clavitor_licensing.domain.schema import read_payload

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def mint(info: LicenseInfo, private_key: Ed25519PrivateKey) -> str:
    """Return the signed token of a license: the same bytes for the same license, whenever and wherever it is made.

    Raises `ValueError` for a license that no server would accept, saying what is wrong with it.
    """
    try:
        payload = canonical_json(info.payload())
        readable = read_payload(payload).info
    except UnicodeEncodeError:
        raise ValueError("a text of the license holds half a surrogate pair") from None
    except LicenseRejected as rejection:
        raise ValueError(rejection.message) from None
    if readable != info:
        raise ValueError("a server would read another license; is a limit's key or the letter case of the id wrong?")
    token = encode_token(payload, private_key.sign(payload))
    if len(token) > MAX_TOKEN_SIZE:
        raise ValueError(f"the token would be longer than {MAX_TOKEN_SIZE} bytes")
    return token
