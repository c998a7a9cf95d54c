"""Migrations: one history a plugin, under a lock, all or nothing, never backwards."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clavitor_host.errors import StartError
from clavitor_host.storage.database import Database, sqlite_url
from clavitor_host.storage.migrations import Migrations, migrate

Package = Callable[..., str]

FIRST = """
    import sqlalchemy as sa
    from alembic import op
    revision = "0001_first"
    down_revision = None
    def upgrade():
        op.create_table(
            "pets",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(40), nullable=False),
            sa.Column("owner", sa.Integer, sa.ForeignKey("pets.id")),
        )
        op.create_index("ix_pets_name", "pets", ["name"])
"""
SECOND = """
    import sqlalchemy as sa
    from alembic import op
    revision = "0002_second"
    down_revision = "0001_first"
    def upgrade():
        op.create_table("toys", sa.Column("id", sa.Integer, primary_key=True))
        with op.batch_alter_table("pets") as batch:
            batch.add_column(sa.Column("age", sa.Integer, nullable=False, server_default="1"))
            batch.alter_column("name", type_=sa.String(80), existing_type=sa.String(40))
        connection = op.get_bind()
        pets = sa.table("pets", sa.column("id"), sa.column("name"))
        for row in connection.execute(sa.select(pets)).fetchall():
            connection.execute(pets.update().where(pets.c.id == row.id).values(name=row.name.upper()))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Package:
    """Write revision modules as a package and return its name."""
    name = f"history_{abs(hash(request.node.nodeid))}"
    folder = tmp_path / "packages" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder.parent))

    def write(**modules: str) -> str:
        for module, source in modules.items():
            (folder / f"{module.strip('_')}.py").write_text(textwrap.dedent(source))
        return name

    return write


@pytest.fixture
def pets(package: Package) -> Migrations:
    return Migrations(
        "pets",
        package(_0001_first=FIRST, _0002_second=SECOND),
        revisions=("0001_first", "0002_second"),
        tables=("pets", "toys"),
    )


def up_to_first(pets: Migrations) -> Migrations:
    return Migrations(pets.name, pets.package, pets.revisions[:1], ("pets",))


async def tables(db: Database) -> set[str]:
    if db.dialect == "sqlite":
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    else:
        query = "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'"
    return {row["name"] for row in await db.fetch_all(query)}


async def test_a_history_is_run_and_continued(empty: Database, pets: Migrations) -> None:
    await migrate(empty, [up_to_first(pets)])
    assert await tables(empty) == {"pets", "alembic_version_pets"}
    await empty.execute("INSERT INTO pets (id, name) VALUES (1, 'rex')")
    await empty.execute("INSERT INTO pets (id, name, owner) VALUES (2, 'flea', 1)")
    await migrate(empty, [pets])
    assert await tables(empty) == {"pets", "toys", "alembic_version_pets"}
    assert await empty.fetch_all("SELECT name, owner, age FROM pets ORDER BY id") == [
        {"name": "REX", "owner": None, "age": 1},
        {"name": "FLEA", "owner": 1, "age": 1},
    ]
    assert await empty.fetch_val("SELECT version_num FROM alembic_version_pets") == "0002_second"


async def test_histories_are_apart(empty: Database, pets: Migrations, package: Package) -> None:
    source = FIRST.replace("pets", "cars").replace("0001_first", "0001_cars")
    cars = Migrations("cars", package(_0001_cars=source), ("0001_cars",), ("cars",))
    await migrate(empty, [cars, pets])
    await migrate(empty, [cars])  # the other plugin is no longer installed
    await migrate(empty, [pets])
    assert {"alembic_version_cars", "alembic_version_pets"} < await tables(empty)


async def test_when_all_is_up_to_date_alembic_is_not_imported(tmp_path: Path, pets: Migrations) -> None:
    url = sqlite_url(tmp_path / "vault.db")
    db = Database(url)
    await db.open()
    await migrate(db, [pets])
    await db.close()
    program = (
        "import asyncio, sys\n"
        "from clavitor_host.storage.database import Database\n"
        "from clavitor_host.storage.migrations import Migrations, migrate\n"
        "async def main():\n"
        "    db = Database(sys.argv[1]); await db.open()\n"
        "    await migrate(db, [Migrations('pets', 'absent', ('0001_first', '0002_second'), ('pets', 'toys'))])\n"
        "    await db.close()\n"
        "asyncio.run(main())\n"
        "print(sorted({'alembic', 'mako', 'asyncpg', 'greenlet'} & set(sys.modules)))\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, url, stdout=subprocess.PIPE)
    assert (await process.communicate())[0].strip() == b"[]"


@pytest.mark.parametrize("how", ["raise RuntimeError('no\\nluck')", "op.execute('INSERT INTO nowhere VALUES (1)')"])
async def test_a_failed_migration_leaves_nothing_behind(
    empty: Database, pets: Migrations, package: Package, how: str
) -> None:
    await migrate(empty, [up_to_first(pets)])
    await empty.execute("INSERT INTO pets (id, name) VALUES (1, 'rex')")
    before = await tables(empty)
    third = f"""
    from alembic import op
    revision = "0003_third"
    down_revision = "0002_second"
    def upgrade():
        {how}
    """
    package(_0003_third=third)
    broken = Migrations(pets.name, pets.package, (*pets.revisions, "0003_third"), pets.tables)
    with pytest.raises(StartError, match="nothing was changed") as raised:
        await migrate(empty, [broken])
    assert "\n" not in str(raised.value)
    assert await tables(empty) == before
    assert await empty.fetch_all("SELECT name FROM pets") == [{"name": "rex"}]
    assert await empty.fetch_val("SELECT version_num FROM alembic_version_pets") == "0001_first"
    await migrate(empty, [pets])


async def test_a_newer_database_is_refused_before_anything_runs(
    empty: Database, pets: Migrations, package: Package
) -> None:
    await migrate(empty, [pets])
    source = FIRST.replace("pets", "cars").replace("0001_first", "0001_cars")
    cars = Migrations("cars", package(_0001_cars=source), ("0001_cars",), ("cars",))
    with pytest.raises(StartError, match=r"newer than this program.*'0002_second'"):
        await migrate(empty, [cars, up_to_first(pets)])
    assert "cars" not in await tables(empty)


async def test_two_histories_that_claim_one_table_are_both_named(empty: Database, pets: Migrations) -> None:
    other = Migrations("zoo", pets.package, pets.revisions, ("toys",))
    with pytest.raises(StartError, match="'toys' is claimed by 'pets' and by 'zoo'"):
        await migrate(empty, [pets, other])
    with pytest.raises(StartError, match="named 'pets'"):
        await migrate(empty, [pets, pets])
    assert await tables(empty) == set()


@pytest.mark.parametrize(("declared", "message"), [(("pets",), "undeclared"), (("pets", "toys", "x"), "not create")])
async def test_declared_tables_are_the_created_ones(
    empty: Database, pets: Migrations, declared: tuple[str, ...], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        await migrate(empty, [Migrations(pets.name, pets.package, pets.revisions, declared)])
    assert await tables(empty) == set()


async def test_revisions_must_form_a_row(empty: Database, pets: Migrations) -> None:
    swapped = Migrations(pets.name, pets.package, tuple(reversed(pets.revisions)), pets.tables)
    with pytest.raises(StartError, match="must say revision = '0002_second' and down_revision = None"):
        await migrate(empty, [swapped])
    assert await tables(empty) == set()


def test_names_are_checked() -> None:
    for name in ("", "Pets", "pets; drop", "x" * 41):
        with pytest.raises(ValueError, match="lower-case"):
            Migrations(name, "p", ("1",), ())
    with pytest.raises(ValueError, match="revisions"):
        Migrations("pets", "p", (), ())


async def test_concurrent_starters_of_one_process(empty: Database, pets: Migrations) -> None:
    others = [Database(empty.url) for _ in range(3)]
    for other in others:
        await other.open()
    await asyncio.gather(*[migrate(db, [pets]) for db in (empty, *others)])
    for other in others:
        await other.close()
    assert await tables(empty) == {"pets", "toys", "alembic_version_pets"}


async def test_concurrent_starters_in_processes(empty: Database, pets: Migrations, tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from clavitor_host.storage.database import Database\n"
        "from clavitor_host.storage.migrations import Migrations, migrate\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "async def main():\n"
        "    db = Database(sys.argv[1]); await db.open()\n"
        "    await migrate(db, [Migrations('pets', sys.argv[3], ('0001_first', '0002_second'), ('pets', 'toys'))])\n"
        "    await db.close()\n"
        "asyncio.run(main())\n"
    )
    arguments = [sys.executable, "-c", program, empty.url, str(tmp_path / "packages"), pets.package]
    processes = [await asyncio.create_subprocess_exec(*arguments) for _ in range(3)]
    assert [await process.wait() for process in processes] == [0, 0, 0]
    assert await tables(empty) == {"pets", "toys", "alembic_version_pets"}


async def test_revisions_may_lie_in_an_archive(
    empty: Database, pets: Migrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "bundle.pyz"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("zipped_history/__init__.py", "")
        bundle.writestr("zipped_history/0001_first.py", textwrap.dedent(FIRST))
    monkeypatch.syspath_prepend(str(archive))
    await migrate(empty, [Migrations("zipped", "zipped_history", ("0001_first",), ("pets",))])
    assert "pets" in await tables(empty)


async def test_a_rebuilt_table_keeps_foreign_keys_true(empty: Database, pets: Migrations, package: Package) -> None:
    await migrate(empty, [pets])
    third = """
    from alembic import op
    revision = "0003_third"
    down_revision = "0002_second"
    def upgrade():
        op.execute("INSERT INTO pets (id, name, owner) VALUES (5, 'stray', 99)")
    """
    package(_0003_third=third)
    broken = Migrations(pets.name, pets.package, (*pets.revisions, "0003_third"), pets.tables)
    with pytest.raises(StartError):
        await migrate(empty, [broken])
    assert await empty.fetch_val("SELECT count(*) FROM pets") == 0
