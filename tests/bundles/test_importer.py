"""Python's own ways to modules, files and distributions work from inside an artifact."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.bundles.small import PYTHON, SPEEDUPS, compiled, small_artifact, start


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_artifact(tmp_path_factory.mktemp("bin") / "small.pyz")


def told(artifact: Path, *lines: str) -> Any:
    """Run these lines, the last of which is an expression; return its value."""
    *before, last = lines
    done = start(artifact, "\n".join([*before, f"print(repr(({last})))"]))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return ast.literal_eval(done.stdout)


def test_a_packages_files_are_reached_by_importlib_resources(artifact: Path) -> None:
    lines = ("from importlib.resources import files, as_file, read_text, is_resource, contents", "f = files('shop')")
    assert told(artifact, *lines, "(f / 'text.txt').read_text(encoding='utf-8')") == "ware\n"
    assert told(artifact, *lines, "f.joinpath('data/more.txt').read_bytes()") == b"more\n"
    assert told(artifact, *lines, "f.joinpath('data', 'more.txt').open().readline()") == "more\n"
    assert told(artifact, *lines, "sorted(i.name for i in f.iterdir())") == [
        "__init__.py", "counter.py", "counter.pyc", "data", "text.txt"
    ]  # fmt: skip
    assert told(artifact, *lines, "[(f / n).is_file() for n in ('text.txt', 'data', 'no')]") == [True, False, False]
    assert told(artifact, *lines, "[(f / n).is_dir() for n in ('text.txt', 'data', 'dat')]") == [False, True, False]
    assert told(artifact, *lines, "read_text(__import__('shop.data').data, 'more.txt')") == "more\n"
    assert told(artifact, *lines, "files('space').joinpath('text.txt').read_text()") == "space\n"
    with_file = (*lines, "with as_file(f / 'text.txt') as path: text = open(path).read()")
    assert told(artifact, *with_file, "text") == "ware\n"
    assert told(artifact, *lines, "is_resource('shop', 'text.txt'), 'data' in contents('shop')") == (True, True)


@pytest.mark.parametrize("path", ["no.txt", "data", "../../../etc/passwd", "/etc/passwd"])
def test_what_is_no_file_of_the_artifact_is_not_read(artifact: Path, path: str) -> None:
    done = start(artifact, f"from importlib.resources import files; (files('shop') / {path!r}).read_bytes()")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(("FileNotFoundError: ", "IsADirectoryError: "))
    data = start(artifact, f"import pkgutil; pkgutil.get_data('shop', {path!r})")
    assert data.returncode == 1


def test_pkgutil_reads_data_and_lists_modules(artifact: Path) -> None:
    assert told(artifact, "import pkgutil", "pkgutil.get_data('shop', 'data/more.txt')") == b"more\n"
    assert told(artifact, "import pkgutil, shop", "[m.name for m in pkgutil.iter_modules(shop.__path__, 'shop.')]") == [
        "shop.counter"
    ]
    root = "sys.modules['clavitor_host'].__file__.rpartition('/clavitor_host')[0]"
    listed = told(artifact, "import pkgutil, sys", f"[(m.name, m.ispkg) for m in pkgutil.iter_modules([{root}])]")
    assert ("late", False) in listed
    assert ("shop", True) in listed
    assert told(artifact, "import pkgutil, markupsafe", "[m.name for m in pkgutil.iter_modules(markupsafe.__path__)]") \
        == ["_speedups"]  # fmt: skip


def test_distributions_are_found_by_importlib_metadata(artifact: Path) -> None:
    meta = "import importlib.metadata as m"
    assert told(artifact, meta, "[m.version(n) for n in ('shop.goods', 'shop-goods', 'Shop_Goods')]") == ["1.2"] * 3
    assert told(artifact, meta, "m.distribution('shop-goods').metadata['Summary']") == "goods"
    assert told(artifact, meta, "[str(f) for f in m.files('shop-goods')][:2]") == ["shop/__init__.py", "shop/text.txt"]
    assert told(artifact, meta, "m.files('shop-goods')[1].read_text()") == "ware\n"
    assert told(artifact, meta, "[e.load().size for e in m.entry_points(group='shop.things')]") == [3]
    assert told(artifact, meta, "[d.metadata['Name'] for d in m.distributions()]") == ["shop.goods"]
    assert told(artifact, meta, "list(m.distributions(path=['/nowhere']))") == []
    assert told(artifact, meta, "m.packages_distributions()['shop']") == ["shop.goods"]
    assert start(artifact, f"{meta}; m.version('shop')").stderr.endswith("No package metadata was found for shop\n")


def test_namespace_packages_have_their_modules(artifact: Path) -> None:
    assert told(artifact, "import space.inner", "space.inner.VALUE, space.__file__") == ("inner", None)
    assert told(artifact, "import space", "[p.rpartition('/')[2] for p in space.__path__]") == ["space"]


def test_sources_can_be_shown(artifact: Path) -> None:
    shelf = "class Shelf:\n    size = 3\n"
    assert told(artifact, "import inspect, shop.counter", "inspect.getsource(shop.counter.Shelf)") == shelf
    lines = ("import linecache, shop.counter as c, traceback", "try: c.fail()", "except ValueError as e: error = e")
    assert "# here it breaks" in told(artifact, *lines, "''.join(traceback.format_exception(error))")


def test_a_module_says_where_it_comes_from(artifact: Path) -> None:
    assert told(artifact, "import shop.counter as c", "c.__file__, c.__cached__, c.__spec__.origin") == (
        f"{artifact}/shop/counter.py", f"{artifact}/shop/counter.pyc", f"{artifact}/shop/counter.py"
    )  # fmt: skip
    assert told(artifact, "import shop.counter as c", "c.fail.__code__.co_filename") == f"{artifact}/shop/counter.py"
    assert told(artifact, "import shop.counter as c", "c.__spec__.loader.get_filename('shop.counter')") == (
        f"{artifact}/shop/counter.py"
    )


def test_the_compiled_form_is_what_runs(artifact: Path, tmp_path: Path) -> None:
    other = small_artifact(tmp_path / "a.pyz", {"late.pyc": compiled("late.py", "VALUE = 'compiled'")})
    assert told(other, "import late", "late.VALUE") == "compiled"
    old = small_artifact(tmp_path / "b.pyz", {"late.pyc": b"\0\0\0\0" + compiled("late.py", "VALUE = 1")[4:]})
    assert told(old, "import late", "late.VALUE") == "late"


def test_an_extension_module_runs_from_memory(artifact: Path) -> None:
    lines = ("import markupsafe._speedups as s", "maps = open('/proc/self/maps').read()")
    file, escaped, mapped = told(artifact, *lines, "s.__file__, s._escape_inner('<a>'), '/memfd:_speedups' in maps")
    assert (file, escaped, mapped) == (f"{artifact}/{SPEEDUPS}", "&lt;a&gt;", True)


def test_memory_that_must_not_run_is_one_clear_error(artifact: Path) -> None:
    deny = "import os; os.memfd_create = lambda *a: (_ for _ in ()).throw(PermissionError(13, 'Permission denied'))"
    done = start(artifact, f"{deny}\nimport markupsafe._speedups")
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {SPEEDUPS}: the system gives no memory to run it from (Permission denied)"
    )


def test_a_module_of_the_standard_library_is_never_taken_from_the_artifact(tmp_path: Path) -> None:
    mine = small_artifact(tmp_path / "a.pyz", {"csv.py": b"raise SystemExit('ours')\n"})
    assert told(mine, "import csv", "csv.__name__") == "csv"


def test_missing_modules_are_missing(artifact: Path) -> None:
    for name in ("nothing", "shop.nothing", "clavitor_host.nothing", "sho", "shop.counter.x"):
        done = start(artifact, f"import {name}")
        assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: No module named ")


def test_an_error_while_importing_does_not_show_the_importer(tmp_path: Path) -> None:
    mine = small_artifact(tmp_path / "a.pyz", {"late.py": b"1 / 0\n"})
    done = start(mine, "import late")
    assert "clavitor_importer" not in done.stderr
    assert f'  File "{mine}/late.py", line 1, in <module>\n    1 / 0\n' in done.stderr


def test_a_folder_with_an_odd_name_will_do(tmp_path: Path) -> None:
    for name in (b"with space", "größe".encode(), b"a.b", b"latin\xff"):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)  # noqa: PTH102
        mine = small_artifact(Path(os.fsdecode(folder)) / "a.pyz")
        code = "import importlib.resources as r, late, markupsafe._speedups; print(r.files('shop').is_dir())"
        done = subprocess.run([PYTHON, mine, code], capture_output=True, check=False, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout == b"True\n", done.stderr
