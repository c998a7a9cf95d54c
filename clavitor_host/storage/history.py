"""What a schema history is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clavitor_host.errors import StartError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Migrations:
    """The schema history of the host or of one plugin, an ordinary Alembic history in a row.

    `name`: lower-case word; the version table is `alembic_version_<name>`. `package`: the importable package of the
    revision modules. `revisions`: their names, oldest first; nothing is found by scanning folders, so a history also
    works from inside an archive. `tables`: every table the history owns; a revision may create no other.

    A revision's identifier is its module's name::

        # clavitor_notes/migrations/0001_initial.py
        import sqlalchemy as sa
        from alembic import op

        revision = "0001_initial"
        down_revision = None

        def upgrade() -> None:
            op.create_table("notes", sa.Column("id", sa.String(36), primary_key=True))

        # clavitor_notes/plugin.py
        Migrations("notes", "clavitor_notes.migrations", revisions=("0001_initial",), tables=("notes",))
    """

    name: str
    package: str
    revisions: Sequence[str]
    tables: Sequence[str]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"the history name {self.name!r} is not a lower-case word of at most 40 characters")
        if not self.revisions or len(set(self.revisions)) != len(self.revisions):
            raise ValueError(f"the history {self.name!r} needs revisions, each named once")

    @property
    def head(self) -> str:
        """The newest revision."""
        return self.revisions[-1]

    @property
    def version_table(self) -> str:
        """The table that holds the revision the database is at."""
        return f"alembic_version_{self.name}"


def check_tables(histories: Sequence[Migrations]) -> None:
    """Raise `StartError` when two histories have the same name or claim the same table; it names both."""
    owners: dict[str, str] = {}
    names: set[str] = set()
    for history in histories:
        if history.name in names:
            raise StartError(f"Two schema histories are named {history.name!r}.")
        names.add(history.name)
        for table in history.tables:
            owner = owners.setdefault(table, history.name)
            if owner != history.name:
                raise StartError(f"The table {table!r} is claimed by {owner!r} and by {history.name!r}.")


def check_known(history: Migrations, version: str | None) -> None:
    """Raise `StartError` when the database is at a revision that this program does not know."""
    if version is not None and version not in history.revisions:
        raise StartError(
            f"The database is newer than this program: {history.name!r} is at revision {version!r}, this program "
            f"knows up to {history.head!r}. Install the newer program, or restore a backup made with this one."
        )
