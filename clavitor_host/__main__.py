"""The `clavitor` program."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and end it."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:  # answered without loading the command line
        from clavitor_host import __version__

        print(f"clavitor {__version__}")
        return
    from clavitor_host.cli.main import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
