"""Times as they are given on the command line and shown."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from clavitor_licensing.domain.info import DAY
from clavitor_licensing.domain.schema import END_OF_TIME

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EXPECTED: Final = "expected 2027-04-25 (the end of that day, UTC) or a time with its zone, as 2027-04-25T12:00:00Z"


def parse_expires(text: str) -> int:
    """Return Unix seconds. A date is its very end, the first second of the next day (UTC). Raises `ValueError`."""
    try:
        if _DATE.fullmatch(text):
            return min(int(datetime.fromisoformat(f"{text}T00:00:00+00:00").timestamp()) + DAY, END_OF_TIME)
        if _TIME.fullmatch(text):
            return int(datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        pass
    raise ValueError(_EXPECTED)


def shown_end(seconds: int) -> str:
    """Return Unix seconds at which something ends as RFC 3339; midnight with the day that ends then."""
    if seconds % DAY:
        return shown(seconds)
    return f"{shown(seconds)}, the end of {datetime.fromtimestamp(seconds - DAY, UTC).date()}"


def shown(seconds: int) -> str:
    """Return Unix seconds as RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
