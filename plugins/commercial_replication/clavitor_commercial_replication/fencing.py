"""A primary that learns that it may not go on turns read-only, for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_commercial_replication.models import FencedBecause
    from clavitor_commercial_replication.service import Replication


async def fence(service: Replication, reason: FencedBecause, epoch: int) -> None:
    """Turn this primary read-only, durably. epoch: the one that the other POP knows."""
