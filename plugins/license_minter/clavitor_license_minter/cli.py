"""`clavitor-license-mint`: 0 when it is done, 1 when it is refused, 2 when the arguments are wrong."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence

from clavitor_license_minter.arguments import inspect_arguments, mint_arguments
from clavitor_license_minter.errors import MinterError
from clavitor_license_minter.files import say


def main(argv: Sequence[str]) -> int:
    """Run the command. Returns the exit code."""
    now = int(time.time())
    try:
        if argv[:1] == ["inspect"]:
            from clavitor_license_minter.inspecting import inspect_command

            return inspect_command(inspect_arguments(argv[1:]), now)
        from clavitor_license_minter.minting import mint_command

        mint_command(mint_arguments(argv), now)
    except MinterError as error:
        say(f"error: {error}")
        return 1
    return 0


def run() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label must not fail on a terminal that cannot show it
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
