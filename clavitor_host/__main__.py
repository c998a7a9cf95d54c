"""The `clavitor` program."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line of this process and end it."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:  # answered without loading the command line
        from clavitor_host import __version__

        print(f"clavitor {__version__}")
        return
    gc.disable()  # loading makes no garbage; whoever runs on after it enables this again
    from clavitor_host.cli.main import run

    code = run(arguments)
    gc.freeze()  # or the interpreter spends 0.3 s on collecting what ends with the process anyway
    sys.exit(code)


if __name__ == "__main__":
    main()
