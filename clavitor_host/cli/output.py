"""Tables as the host's own commands draw them on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from clavitor_host import terminal


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows: a table with folded cells on a terminal, else one line a row with tabs between the columns."""
    if not sys.stdout.isatty():
        terminal.table(columns, rows)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(terminal.shown(value)) for value in row))
    Console().print(drawn)
