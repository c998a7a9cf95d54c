"""Names as everything here compares and shows them: of distributions, of members, and in messages."""

from __future__ import annotations

import re


def normalized(name: str) -> str:
    """Return a distribution's name in its one canonical form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_plain(member: str) -> bool:
    """Tell whether a member may have this name: printable ASCII, relative, without `.` and `..`."""
    parts = member.split("/")
    return member.isascii() and member.isprintable() and "\\" not in member and not {"", ".", ".."} & set(parts)


PLAIN = "no name for a member: plain ASCII, relative, without . and .. is needed"
"""Why a name is refused that is not plain."""


def printable(text: str) -> str:
    """Return `text` on one line and without control characters."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
