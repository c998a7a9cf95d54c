"""Exit codes of `clavitor`, as documented in docs/reference/cli.md."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Why the program ended."""

    OK = 0
    FAILED = 1
    """The command could not do what it was asked; the message says why."""
    USAGE = 2
    """The command line is wrong."""
    CONFIG = 3
    """The configuration is wrong; the message names the key."""
    UNAVAILABLE = 4
    """The server cannot start, the database cannot be used, or no server does what is asked just now."""
    UNHEALTHY = 5
    """The command worked, and what it checked is not well: `audit verify`, `doctor`, `status`."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


MEANING = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the command could not do what it was asked",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.CONFIG: "the configuration is wrong",
    ExitCode.UNAVAILABLE: "the server cannot start, the database cannot be used, or no server answers (`entry`)",
    ExitCode.UNHEALTHY: "the command worked, and what it checked is not well (`audit verify`, `doctor`, `status`)",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
}
