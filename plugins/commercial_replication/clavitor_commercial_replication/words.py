"""Numbers in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_commercial_replication.models import Role


def lasting(seconds: float) -> str:
    """Return a time span in words, in its two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, left = divmod(left, size)
        if count or (unit == "second" and not parts):
            parts.append(f"{count} {unit}" if count == 1 else f"{count} {unit}s")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def entries(count: int) -> str:
    """Return a number of entries in words."""
    return "1 entry" if count == 1 else f"{count:,} entries"


def writes(count: int) -> str:
    """Return a number of writes in words."""
    return "1 write" if count == 1 else f"{count:,} writes"


def tokens(count: int) -> str:
    """Return a number of tokens in words."""
    return "1 token" if count == 1 else f"{count:,} tokens"


def are(count: int) -> str:
    """Return the verb that goes with so many."""
    return "is" if count == 1 else "are"


def as_role(role: Role) -> str:
    """Return what a POP is, in words that follow `is`."""
    return role if role == "fenced" else f"the {role}"
