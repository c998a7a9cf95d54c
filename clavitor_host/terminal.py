"""What a command writes and asks: facts, tables and remarks for people, JSON for machines.

Control characters of facts, tables and remarks are escaped, so that no value can write over the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from clavitor_host.errors import ClavitorError


class NobodyThere(ClavitorError):
    """There is no terminal to ask at."""


def write_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    print(json.dumps(value, default=str))


def note(text: str) -> None:
    """Write a remark for a person to standard error."""
    print(printable(text), file=sys.stderr)


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Write one `name: value` line for each pair, values aligned. An empty name goes on with the line above."""
    texts = [(f"{name}:" if name else "", shown(value)) for name, value in pairs]
    width = max((len(name) for name, _ in texts), default=0)
    for name, text in texts:
        print(f"{name:<{width}} {text}")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows below their headings: aligned on a terminal, else with tabs between the columns."""
    lines = [[shown(value) for value in row] for row in (columns, *rows)]
    if not sys.stdout.isatty():
        for line in lines:
            print("\t".join(line))
        return
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def confirm(question: str, *, yes: bool) -> None:
    """Return when `yes`, or when the person at the terminal agrees.

    Raises NobodyThere, or ClavitorError for a no.
    """
    if yes:
        return
    if not can_ask():
        raise NobodyThere("no terminal to ask at: confirm with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ClavitorError("nothing was changed")


def can_ask() -> bool:
    """Tell whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def moment(micros: int | None) -> str:
    """Return µs since the epoch as UTC time to the second, "" for None."""
    if micros is None:
        return ""
    return datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(value: Any) -> str:
    """Return a value as people read it, on one line: nothing for None, yes or no for a bool."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def printable(text: str) -> str:
    """Return `text` on one line and without control characters."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
