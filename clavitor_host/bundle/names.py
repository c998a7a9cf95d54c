"""Names as everything here compares them: of distributions and of members."""

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
