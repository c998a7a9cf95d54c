"""Values of configuration keys that are more than a number or a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator


class RelativeTo(NamedTuple):
    """Marks text that names a file after a prefix: it is resolved like a path (see `sources`)."""

    prefix: str


class ResolvedBy(NamedTuple):
    """Marks text that names files in its own way: `resolve(text, folder)` returns it with relative names counted from
    the folder."""

    resolve: Callable[[str, Path], str]


class ShownAs(NamedTuple):
    """Marks a secret of which `config show` may show a part: `mask` leaves the secret part out."""

    mask: Callable[[str], str]


_BIND = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")


def clean_bind(text: str) -> str:
    """Return a `host:port`, `[ipv6]:port` or `unix:PATH`. Raises ValueError for anything else."""
    if text.startswith("unix:"):
        if text == "unix:":
            raise ValueError("expected a path after unix:")
        if len(text.removeprefix("unix:").encode()) > 107:
            raise ValueError("expected a shorter path: the system allows 107 bytes for a socket")
        return text
    match = _BIND.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError("expected host:port, [ipv6]:port or unix:PATH, such as 127.0.0.1:8400")
    return text


BindAddress = Annotated[str, AfterValidator(clean_bind)]


def reachable_host(host: str) -> str:
    """Return an address under which a server that listens on `host` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def clean_base_url(text: str) -> str:
    """Return an absolute http or https URL without its trailing slash. Raises ValueError for anything else."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected a URL such as https://vault.example.org")
    return text.rstrip("/")


def clean_database_url(text: str) -> str:
    """Return a database URL with its canonical scheme. Raises ValueError, which does not repeat the URL."""
    scheme, _, rest = text.partition("://")
    if scheme in ("postgres", "postgresql") and rest.strip("/"):
        return f"postgresql://{rest}"
    if scheme == "sqlite" and rest.startswith("/") and rest.strip("/"):
        return text
    raise ValueError("expected postgresql://user:password@host/name or sqlite:///FILE")


def masked_url(text: str) -> str:
    """Return a URL with its passwords replaced, also when they are not percent-encoded as they should be."""
    text = re.sub(r"(?<=://)([^:@/]*):.*@", r"\1:********@", text)
    return re.sub(r"([?&][a-z]*password=)[^&]*", r"\1********", text)
