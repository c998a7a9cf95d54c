"""What the other POP may ask besides taking writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quart import Blueprint


def add(blueprint: Blueprint) -> None:
    """Add the routes to the blueprint of `routes`."""
