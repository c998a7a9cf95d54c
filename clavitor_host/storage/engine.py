"""What `Database` needs of a dialect. `sqlite.Engine` and `postgres.Engine` are the two that exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from clavitor_host.storage.compile import Bound, Compiler, Row
from clavitor_host.storage.setwise import Insert, Setwise

DialectName = Literal["sqlite", "postgresql"]


class Session(Protocol):
    """One open transaction. Every method raises translated errors and is safe to cancel."""

    async def fetch(self, statement: Bound) -> list[Row]:
        """Return all rows."""
        ...

    async def execute(self, statement: Bound) -> int:
        """Return how many rows were affected."""
        ...

    async def insert(self, insert: Insert, rows: Sequence[Any]) -> None:
        """Write all rows by one statement."""
        ...

    async def commit(self) -> None:
        """Commit and give the connection back, whatever happens. `OutcomeUnknown` when nobody can tell."""
        ...

    async def rollback(self) -> None:
        """Roll back and give the connection back, whatever happens."""
        ...


class Engine(Protocol):
    """The connections to one database."""

    @property
    def dialect(self) -> DialectName:
        """Which of the two."""
        ...

    compiler: Compiler
    setwise: Setwise

    async def open(self) -> None:
        """Connect. Raises `StartError`."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...

    async def begin(self, *, batch: bool) -> Session:
        """Open a writing transaction; `batch`: short and hot, for the group-commit writer."""
        ...

    async def snapshot(self) -> Session:
        """Open a reading transaction that sees one moment and waits for no writer."""
        ...

    async def fetch(self, statement: Bound) -> list[Row]:
        """Read outside any transaction."""
        ...

    async def point(self, statement: Bound, args: Sequence[Any]) -> Sequence[Any] | None:
        """Read one row outside any transaction, as fast as can be."""
        ...

    async def ping(self) -> None:
        """Raise `StorageUnavailable` when the database cannot be used."""
        ...

    async def listen(self, channel: str, hear: Callable[[str | None], None], wanted: Callable[[], bool]) -> None:
        """Hand what other connections notify on `channel` to `hear`, until `wanted` says no.

        `hear(None)`: something may have been missed; at least once, as soon as listening has begun. Raises
        `StorageUnavailable` when listening cannot begin, or has ended.
        """
        ...
