"""Identifiers and secrets: made here, so that every one has the same strength and form."""

from __future__ import annotations

import hashlib
import secrets
import string
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_host.host import Host

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 43
"""Base62 characters that hold 32 random bytes."""


def uuid7(now_us: int) -> str:
    """Return a time-ordered UUID (RFC 9562 section 5.7) for a time in µs since the epoch."""
    value = (now_us // 1000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def new_id(host: Host) -> str:
    """Return an id that nothing has yet: a UUIDv7, so later ones sort behind."""
    return uuid7(host.clock.now_us())


def secret() -> str:
    """Return a new secret of 256 random bits: letters and digits only."""
    return "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))


def digest(value: bytes) -> str:
    """Return what is stored of a secret: its SHA-256, hex."""
    return hashlib.sha256(value).hexdigest()
