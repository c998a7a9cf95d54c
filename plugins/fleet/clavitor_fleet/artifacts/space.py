"""Room on the disk of the database: uploads never take what the vault itself needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from clavitor_host.api import Problem, problem

if TYPE_CHECKING:
    from clavitor_host.api import Transaction

RESERVE = 64 * 1024 * 1024
"""Bytes that are always left to the vault."""


def insufficient_storage() -> Problem:
    """Return the 507."""
    return problem(507, "insufficient_storage", "The disk of the database has no room for this; nothing was kept.")


async def require_room(tx: Transaction, size: int) -> None:
    """Raise a 507 unless the database can take `size` bytes more and keep its reserve.

    Only SQLite's disk can be seen from here; PostgreSQL refuses by itself when its disk is full. Pages that the file
    has free count as room, since it never gets smaller.
    """
    if tx.dialect != "sqlite":
        return
    room = free_bytes(tx.db.url)
    if room < RESERVE + size:
        pages = await tx.fetch_val("PRAGMA freelist_count")
        room += pages * await tx.fetch_val("PRAGMA page_size")
    if room < RESERVE + size:
        raise insufficient_storage()


def free_bytes(url: str) -> int:
    """Return how many bytes the file system of a SQLite database has free for us."""
    file = Path("/", unquote(urlsplit(url).path).lstrip("/"))
    return shutil.disk_usage(file.parent).free
