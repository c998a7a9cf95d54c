"""The plain form of `clavitor serve`, read without loading the command line: starting must be quick."""

from __future__ import annotations

from collections.abc import Sequence

from clavitor_host.cli.invocation import Invocation

_FLAGS = {"--data-dir": "data_dir", "--bind": "bind", "--workers": "workers", "--config": "config"}


def plain_serve(arguments: Sequence[str]) -> Invocation | None:
    """Return what `serve --flag value …` says; None for anything else, which is left to the command line proper.

    Only whole flags with their values are taken, so help, mistakes and their messages are never decided here.
    """
    if not arguments or arguments[0] != "serve":
        return None
    flags: dict[str, str | int] = {}
    words = iter(arguments[1:])
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in _FLAGS:
            return None
        if not equals:
            value = next(words, "")
        if not value or value.startswith("-"):
            return None
        flags[_FLAGS[flag]] = value
    if "workers" in flags:
        workers = str(flags["workers"])
        if not (workers.isascii() and workers.isdigit()):
            return None
        flags["workers"] = int(workers)
    return Invocation(flags, json=False)
