"""Typed values of artifacts."""

from __future__ import annotations

from typing import NamedTuple

CHUNK = 1024 * 1024
"""Bytes of an artifact that are one row, and one transaction of its upload."""


class Artifact(NamedTuple):
    """A version of an app. `sha256` is hex, `size` bytes, `created_at` µs since the epoch."""

    id: str
    app_id: str
    version: str
    sha256: str
    size: int
    created_at: int
    created_by: str


class Announced(NamedTuple):
    """What a client says of an upload before it sends it. `sha256`: hex; `size`: bytes, None when it does not say."""

    version: str
    sha256: str
    size: int | None
