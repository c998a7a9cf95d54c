"""Tells the operator what needs a person, once, and when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

INTERVAL = 5.0
"""Seconds between two looks."""


class Watch:
    """Looks at one POP's replication. One per app."""

    def __init__(self, service: Replication) -> None:
        self._service = service

    async def look(self) -> None:
        """Look once."""
