"""Names of users and tokens: which are acceptable, and when two are the same."""

from __future__ import annotations

import unicodedata

from clavitor_host.errors import invalid_field

MAX_NAME = 128
"""Longest name, in characters."""

_RESERVED = frozenset({"system", "anonymous"})


def clean_name(name: str, field: str = "name") -> str:
    """Return a name in Unicode form NFC. Raises a 400 that names `field`.

    1 to 128 printable characters; no control or invisible character, no space at either end.
    """
    if 1 <= len(name) <= MAX_NAME and name.isprintable() and name == name.strip():
        clean = unicodedata.normalize("NFC", name)
        if len(clean) <= MAX_NAME and name_key(clean):
            return clean
    raise invalid_field(field, f"1 to {MAX_NAME} printable characters with no space at either end")


def clean_user_name(name: str) -> str:
    """Return a user's name in Unicode form NFC. Raises a 400 for a bad name, or one that other actors have."""
    clean = clean_name(name)
    if is_reserved(clean):
        raise invalid_field("name", "a name that the server does not use itself: no `:`, not system or anonymous")
    return clean


def is_reserved(name: str) -> bool:
    """Return whether a name would look like another kind of actor in the audit log (`agent:…`, `system`)."""
    key = name_key(name)
    return ":" in key or key in _RESERVED


def name_key(name: str) -> str:
    """Return what makes two names the same: case and compatibility forms do not count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def shown(text: str, limit: int = 80) -> str:
    """Return text that somebody sent, safe for an audit row: escaped and cut to `limit` characters."""
    escaped = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:limit])
    return escaped if len(text) <= limit else f"{escaped}…"
