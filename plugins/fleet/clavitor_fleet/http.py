"""What routes take from a path, and answer with nothing."""

from __future__ import annotations

from clavitor_fleet.lists import MAX_ID
from clavitor_host.api import Problem, Reply


def known_id(text: str, otherwise: Problem) -> str:
    """Return an id from a path, or raise `otherwise`: what can be no id names nothing."""
    if 0 < len(text) <= MAX_ID and text.isascii() and text.isprintable():
        return text
    raise otherwise


def nothing() -> Reply:
    """Return a 204."""
    return Reply(204, b"", None)
