"""Results on standard output: tables and sentences for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any


def write_json(value: Any) -> None:
    """Write one JSON document."""
    print(json.dumps(value, default=str))


def note(text: str) -> None:
    """Write a remark for a person to standard error."""
    print(text, file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows: a table on a terminal, else one line a row with tabs between the columns."""
    texts = [[_text(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        print("\t".join(columns))
        for texts_of_row in texts:
            print("\t".join(texts_of_row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for texts_of_row in texts:
        shown.add_row(*(Text(text) for text in texts_of_row))
    Console().print(shown)


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Write one `name: value` line for each pair, values aligned."""
    texts = [(name, _text(value)) for name, value in pairs]
    width = max((len(name) for name, _ in texts), default=0) + 1
    for name, text in texts:
        print(f"{name + ':':<{width}} {text}")


def moment(micros: int | None) -> str:
    """Return µs since the epoch as UTC time to the second, "" for None."""
    if micros is None:
        return ""
    return datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
