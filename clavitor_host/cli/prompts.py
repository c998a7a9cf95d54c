"""Asking the person at the terminal, and reading what a script hands over."""

from __future__ import annotations

import sys
from typing import Never

from clavitor_host.errors import ClavitorError


class UsageError(ClavitorError):
    """The command line is wrong."""


def read_secret(what: str, *, from_stdin: bool, flag: str) -> str:
    """Return a secret: the first line of standard input, or asked for twice at the terminal.

    what: such as "password". flag: what a script must give, for the message. Raises UsageError.
    """
    if from_stdin:
        text = sys.stdin.readline().rstrip("\r\n")
        if not text:
            raise UsageError(f"{flag}: standard input holds no {what}")
        return text
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"no terminal to ask for the {what}: give it on standard input with {flag}")
    from getpass import getpass

    first = getpass(f"{what.capitalize()}: ")
    if not first:
        raise UsageError(f"the {what} is empty")
    if getpass("Once more: ") != first:
        raise UsageError("the two are not the same")
    return first


def confirm(question: str, *, yes: bool) -> None:
    """Return when `yes`, or when the person at the terminal agrees. Raises UsageError, or ClavitorError for a no."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("no terminal to ask at: confirm with --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        _stop()


def _stop() -> Never:
    raise ClavitorError("nothing was changed")
