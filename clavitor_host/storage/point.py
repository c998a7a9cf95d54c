"""Hot reads of one row, compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from clavitor_host.storage.compile import Bound, Compiler


class PointRead:
    """A select of at most one row, kept as a constant and run by `Database.point_read`.

    Its values are `sa.bindparam("name")`s without a default; `point_read(statement, *args)` takes them in the order
    in which the names first appear in the SQL. Example::

        BY_ID = PointRead(sa.select(entries.c.rev).where(entries.c.entry_id == sa.bindparam("entry_id")))
    """

    __slots__ = ("_compiled", "statement")

    def __init__(self, statement: sa.Executable) -> None:
        self.statement = statement
        self._compiled: dict[str, tuple[Bound, Sequence[int], bool]] = {}

    def bind(self, compiler: Compiler, args: Sequence[Any]) -> tuple[Bound, Sequence[Any]]:
        """Return the compiled statement and the arguments for the driver."""
        found = self._compiled.get(compiler.dialect.name)
        if found is None:
            bound, slots = compiler.point(self.statement)
            direct = list(slots) == list(range(len(slots)))
            found = self._compiled[compiler.dialect.name] = bound, slots, direct
        bound, slots, direct = found
        if direct:
            return bound, args
        return bound, [bound.args[n] if slot < 0 else args[slot] for n, slot in enumerate(slots)]
