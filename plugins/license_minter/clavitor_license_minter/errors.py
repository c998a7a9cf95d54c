"""What stops the command."""

from __future__ import annotations


class MinterError(Exception):
    """The message says what is wrong and what to do; it never holds a key."""
