"""How a token is written: canonical JSON, and `base64(payload) "." base64(signature)`."""

from __future__ import annotations

import json
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any, Final

from clavitor_licensing.domain.info import LicenseRejected

MAX_TOKEN_SIZE: Final = 16 * 1024
"""Longest token that is read, white space and all, in bytes."""

SIGNATURE_SIZE: Final = 64
"""Bytes of an Ed25519 signature (RFC 8032, section 5.1.6)."""

_WHITE_SPACE: Final = b" \t\n\r\v\f"
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Return the one way to write it: sorted names, no spaces, UTF-8."""
    return _ENCODER.encode(value).encode()


def encode_token(payload: bytes, signature: bytes) -> str:
    """Return the token of a payload and its signature."""
    return (b2a_base64(payload, newline=False) + b"." + b2a_base64(signature, newline=False)).decode("ascii")


def split_token(token: str) -> tuple[bytes, bytes]:
    """Return payload and signature of any string. Raises `LicenseRejected` (`malformed`)."""
    if len(token) > MAX_TOKEN_SIZE:
        raise _malformed(f"it is longer than {MAX_TOKEN_SIZE} bytes")
    if not token.isascii():
        raise _malformed("it has characters that are not base64")
    parts = token.encode("ascii").translate(None, _WHITE_SPACE).split(b".")
    if len(parts) != 2 or not all(parts):
        raise _malformed("it is not two parts with a dot between them; copy all of it")
    payload, signature = map(decode_base64, parts)
    if payload is None or signature is None:
        raise _malformed("it is not padded standard base64; copy all of it")
    if len(signature) != SIGNATURE_SIZE:
        raise _malformed(f"its signature is not {SIGNATURE_SIZE} bytes; copy all of it")
    return payload, signature


def decode_base64(text: bytes) -> bytes | None:
    """Decode the standard alphabet, padded and canonical (RFC 4648, section 3.5); None when it is not that."""
    try:
        data = a2b_base64(text)
    except Error:
        return None
    # The decoder passes over other characters and trailing bits, in strict mode over the bits: two texts, one token.
    return data if b2a_base64(data, newline=False) == text else None


def _malformed(why: str) -> LicenseRejected:
    return LicenseRejected("malformed", f"License token is malformed: {why}")
