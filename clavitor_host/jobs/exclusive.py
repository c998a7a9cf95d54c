"""Running something only while a lease is held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_host.jobs.models import JobFunction
    from clavitor_host.storage.leases import Lease


class LeaseLost(Exception):
    """The lease went to another process while the work ran; the work was cancelled."""


async def while_held(lease: Lease, function: JobFunction) -> None:
    """Run `function`, cancelled as soon as the lease is lost. Returns or raises when it has really ended."""
    work = asyncio.ensure_future(function())
    lost = asyncio.ensure_future(lease.lost.wait())
    try:
        await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise LeaseLost(lease.name)
    finally:
        lost.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
    work.result()
