"""DSSE v1 envelopes: a statement with its signature in one JSON file.

What is signed is the pre-authentication encoding of the payload and its type (DSSE protocol, "Signature Definition"),
so that bytes signed for one purpose never pass for another.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from clavitor_host import strict_json
from clavitor_host.strict_json import StrictJSONError

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signature(NamedTuple):
    """One signature of an envelope. `keyid` is a hint, never trusted."""

    keyid: str
    sig: bytes


class Envelope(NamedTuple):
    """What was signed, and by whom."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: `DSSEv1 <length> <type> <length> <payload>`, lengths in bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def to_bytes(envelope: Envelope) -> bytes:
    """Return the envelope as JSON with a final newline, the same for the same envelope."""
    document = {
        "payload": base64.b64encode(envelope.payload).decode(),
        "payloadType": envelope.payload_type,
        "signatures": [
            {"keyid": each.keyid, "sig": base64.b64encode(each.sig).decode()} for each in envelope.signatures
        ],
    }
    return json.dumps(document, sort_keys=True).encode() + b"\n"


def from_bytes(data: bytes) -> Envelope:
    """Read an envelope. Raises ValueError saying what is wrong with it."""
    try:
        document = strict_json.loads(data)
    except StrictJSONError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    signatures = document.get("signatures")
    if not isinstance(signatures, list) or not signatures:
        raise ValueError("no signatures")
    kind = document.get("payloadType")
    if not isinstance(kind, str):
        raise ValueError("no payloadType")
    return Envelope(kind, _decoded(document, "payload"), tuple(_signature(each) for each in signatures))


def _signature(document: Any) -> Signature:
    if not isinstance(document, dict):
        raise ValueError("a signature is not an object")
    return Signature(str(document.get("keyid", "")), _decoded(document, "sig"))


def _decoded(document: dict[str, Any], name: str) -> bytes:
    text = document.get(name)
    if not isinstance(text, str):
        raise ValueError(f"no {name}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} is not base64") from None
