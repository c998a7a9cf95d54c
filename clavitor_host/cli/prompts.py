"""Asking the person at the terminal, and reading what a script hands over."""

from __future__ import annotations

import sys
from pathlib import Path

from clavitor_host import terminal
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
    if not terminal.can_ask():
        raise UsageError(f"no terminal to ask for the {what}: give it on standard input with {flag}")
    from getpass import getpass

    first = getpass(f"{what.capitalize()}: ")
    if not first:
        raise UsageError(f"the {what} is empty")
    if getpass("Once more: ") != first:
        raise UsageError("the two are not the same")
    return first


def read_text(file: Path) -> str:
    """Return what a file holds, standard input for `-`. Raises ClavitorError."""
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise ClavitorError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ClavitorError(f"{file} cannot be read: it is not text") from None


def confirm(question: str, *, yes: bool) -> None:
    """Return when `yes`, or when the person at the terminal agrees. Raises UsageError, or ClavitorError for a no."""
    try:
        terminal.confirm(question, yes=yes)
    except terminal.NobodyThere as error:
        raise UsageError(str(error)) from None
