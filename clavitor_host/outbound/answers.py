"""What an HTTP answer of another server says, for whoever sends it things and tries again."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from http import HTTPStatus

LONGEST_RETRY_AFTER = 3600.0
"""Seconds: the most that a Retry-After counts."""


def status_phrase(status: int) -> str:
    """Return a status as a person reads it: `503 Service Unavailable`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after(value: str, now: float) -> float:
    """Return the seconds a Retry-After header asks for (RFC 9110 section 10.2.3), bounded; 0 when it says nothing.

    now: seconds since the epoch, for one that is a date.
    """
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return min(float(value[:10]), LONGEST_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
