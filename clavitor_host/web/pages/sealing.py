"""What one page hands to the next through the browser and nobody is to read there: a secret that was just typed in.

It is encrypted under a key that is derived from the session's cookie. So nothing is kept on the server, every process
can read it, and what a saved page holds is of no use to anybody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

from clavitor_host.errors import problem

_NONCE = 12
"""Bytes."""


def seal(text: str, cookie: str) -> str:
    """Return `text`, encrypted for the session of `cookie`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE)
    sealed = AESGCM(_key(cookie)).encrypt(nonce, text.encode(), None)
    return base64.urlsafe_b64encode(nonce + sealed).decode()


def unseal(sealed: str, cookie: str) -> str:
    """Return what `seal` was given. Raises a 400 when it was sealed in another session, or was changed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        data = base64.urlsafe_b64decode(sealed.encode("ascii"))
        return AESGCM(_key(cookie)).decrypt(data[:_NONCE], data[_NONCE:], None).decode()
    except (ValueError, InvalidTag):
        raise problem(400, "stale_form", "This form belongs to another session: please begin again.") from None


def _key(cookie: str) -> bytes:
    return hmac.new(cookie.encode(), b"clavitor seal", hashlib.sha256).digest()
