"""Wheels: what is taken from one, what makes one unfit, and our own built the same everywhere."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clavitor_host.bundle import compile as compile_module
from clavitor_host.bundle import wheels
from clavitor_host.bundle.compile import compile_all, compile_source, compile_wheels
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.licenses import spdx
from clavitor_host.bundle.local import build_folder
from tests.bundles.making import plugin_folder, wheel, write


def read(file: Path) -> wheels.Wheel:
    """Read a wheel from its file."""
    return wheels.read(file.name, file.read_bytes())


# --- reading


def test_members_lie_where_an_import_looks_for_them(tmp_path: Path) -> None:
    files = {
        "demo/__init__.py": b"",
        "demo-1.0.data/purelib/pure.py": b"",
        "demo-1.0.data/platlib/plat/__init__.py": b"",
        "demo-1.0.data/scripts/demo": b"#!python",
        "demo-1.0.data/headers/demo.h": b"",
        "demo-1.0.data/data/share/demo.txt": b"",
    }
    found = read(wheel(tmp_path, "Demo", files={name.replace("demo-", "Demo-"): data for name, data in files.items()}))
    assert (found.name, found.version) == ("demo", "1.0")
    assert {name for name in found.members if "dist-info" not in name} == {
        "demo/__init__.py",
        "pure.py",
        "plat/__init__.py",
    }
    assert "Demo-1.0.dist-info/RECORD" in found.members


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"demo.libs/libx-1234.so.1": b""}, "demo.libs/libx-1234.so.1: a bundle takes no shared library"),
        ({"demo/libx.so.3": b""}, "demo/libx.so.3: a bundle takes no shared library"),
        ({"demo/x.cpython-312-x86_64-linux-gnu.so": b""}, "a bundle takes no shared library"),
        ({"demo/more.zip": b""}, "demo/more.zip: a bundle takes no archive"),
        ({"demo/über.py": b""}, "plain ASCII member names only"),
        ({"../demo.py": b""}, "plain ASCII member names only"),
        ({"/demo.py": b""}, "plain ASCII member names only"),
        ({"demo-1.0.data/odd/x": b""}, "there is no such kind of data"),
    ],
)
def test_what_a_bundle_cannot_hold_is_refused(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    with pytest.raises(BundleError, match=r"^demo-1\.0-py3-none-any\.whl: ") as caught:
        read(wheel(tmp_path, "demo", files=files))
    assert says in str(caught.value)


def test_extension_modules_are_taken(tmp_path: Path) -> None:
    names = ["demo/a.so", "demo/b.abi3.so", "demo/c.cpython-311-x86_64-linux-gnu.so"]
    assert set(names) <= read(wheel(tmp_path, "demo", files=dict.fromkeys(names, b""))).members.keys()


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"demo/a.py": "sha256=AAAA"}, "demo/a.py is not what its RECORD says"),
        ({"demo/a.py": "absent"}, "demo/a.py is not in its RECORD"),
        ({"demo/a.py": ""}, "demo/a.py has no usable digest in its RECORD"),
        ({"demo/a.py": "md5=AAAA"}, "demo/a.py has no usable digest in its RECORD"),
        ({"demo/b.py": "sha256=AAAA"}, "demo/b.py is in its RECORD and not in the wheel"),
    ],
)
def test_a_wheel_that_is_not_as_its_record_says_is_refused(tmp_path: Path, record: dict[str, str], says: str) -> None:
    with pytest.raises(BundleError, match=says):
        read(wheel(tmp_path, "demo", files={"demo/a.py": b"1"}, record=record))


def test_what_is_no_wheel_is_refused() -> None:
    with pytest.raises(BundleError, match=r"x\.whl: it is no wheel"):
        wheels.read("x.whl", b"PK")


def test_a_wheel_that_is_damaged_or_made_to_harm_is_refused(tmp_path: Path) -> None:
    file = wheel(tmp_path, "demo", files={"demo/a.py": b"A = 1\n" * 1000})
    with zipfile.ZipFile(file) as plain, zipfile.ZipFile(tmp_path / "packed.whl", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info))
    data = bytearray((tmp_path / "packed.whl").read_bytes())
    at = data.index(b"demo/a.py") + len("demo/a.py")
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(BundleError, match=r"^x\.whl: it is no wheel: Error -3 while decompressing"):
        wheels.read("x.whl", bytes(data))
    row = {"demo/a.py": "sha256=" + "A" * 200_000}
    with pytest.raises(BundleError, match=r"RECORD cannot be read: field larger than field limit"):
        read(wheel(tmp_path, "demo", files={"demo/a.py": b""}, record=row))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: mit or apache-2.0\n", "MIT OR Apache-2.0"),
        ("License: BSD-3-Clause\n", "BSD-3-Clause"),
        ("License: see the file\nClassifier: License :: OSI Approved :: MIT License\n", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License\n", ""),
        ("", ""),
    ],
)
def test_the_licence_is_what_spdx_knows(tmp_path: Path, metadata: str, expected: str) -> None:
    assert spdx(read(wheel(tmp_path, "demo", metadata=metadata)).metadata) == expected


# --- the cache


def test_the_cache_gives_back_what_was_kept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sha256 = wheels.keep("demo.whl", b"bytes")
    assert wheels.cached("demo.whl", sha256) == b"bytes"
    (tmp_path / "clavitor" / "wheels" / sha256 / "demo.whl").write_bytes(b"byteS")
    assert wheels.cached("demo.whl", sha256) is None


def test_a_name_that_no_file_has_is_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheels.cached("de\0mo.whl", "0" * 64) is None
    with pytest.raises(BundleError, match=r"^de\\x00mo\.whl: no file name$"):
        wheels.keep("de\0mo.whl", b"bytes")
    assert list(tmp_path.rglob("*.whl")) == []


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BundleError, match="cannot be written: Not a directory; name another folder in XDG_CACHE_HOME"):
        wheels.keep("demo.whl", b"bytes")


# --- our own


def git(folder: Path, *arguments: str) -> None:
    """Run git as nobody in particular."""
    options = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *options, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_folder_builds_to_the_same_bytes_whatever_lies_around(tmp_path: Path) -> None:
    plain = plugin_folder(tmp_path / "plain")
    warnings: list[str] = []
    name, expected = build_folder(plain, "plugin", warnings.append)
    assert name == "clavitor_acme-2.5-py3-none-any.whl"

    tracked = plugin_folder(tmp_path / "deep" / "er" / "tracked")
    git(tracked, "init")
    git(tracked, "add", ".")
    write(tracked, {"clavitor_acme/new.py": "", "clavitor_acme/__pycache__/x.pyc": "", ".gitignore": "*.tmp\n"})
    write(tracked, {"clavitor_acme/junk.tmp": "", "dist/old.whl": ""})
    for file in tracked.rglob("*.py"):
        file.chmod(0o700)
        os.utime(file, (1, 1))
    assert build_folder(tracked, "plugin", warnings.append) == (name, expected)
    assert warnings == [
        "not tracked by git, so not in the bundle: clavitor_acme/__pycache__/x.pyc, clavitor_acme/new.py (of plugin)"
    ]


def test_a_folder_that_git_does_not_know_yet_is_built_with_a_warning(tmp_path: Path) -> None:
    _, expected = build_folder(plugin_folder(tmp_path / "plain"), "plugin", print)
    new = plugin_folder(tmp_path / "repository" / "new")
    git(new.parent, "init")
    warnings: list[str] = []
    assert build_folder(new, "plugin", warnings.append)[1] == expected
    assert warnings == ["git tracks no file of plugin, so all that it does not ignore are taken"]


def test_the_wheel_does_not_depend_on_umask_time_zone_or_locale(tmp_path: Path) -> None:
    folder = plugin_folder(tmp_path / "plugin")
    script = (
        "import sys, os, hashlib; os.umask(int(sys.argv[2], 8)); from pathlib import Path;"
        "from clavitor_host.bundle.local import build_folder;"
        "print(hashlib.sha256(build_folder(Path(sys.argv[1]), 'x', print)[1]).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, str(folder), umask],
            env={**os.environ, "TZ": zone, "LC_ALL": locale, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": epoch},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for umask, zone, locale, seed, epoch in [
            ("022", "UTC", "C", "1", "0"),
            ("077", "Asia/Tokyo", "C.UTF-8", "2", "1700000000"),
        ]
    }
    assert len(found) == 1


def test_another_build_backend_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": '[build-system]\nbuild-backend = "setuptools.build_meta"\n'})
    with pytest.raises(
        BundleError, match=r"plugin/pyproject\.toml: build-system\.build-backend is 'setuptools.build_meta'"
    ):
        build_folder(tmp_path, "plugin", print)


def test_a_folder_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    folder = plugin_folder(tmp_path)
    file = folder / "pyproject.toml"
    file.write_text(file.read_text().replace('version = "2.5"', 'version = "x y"'))
    with pytest.raises(BundleError, match=r"plugin cannot be built: Invalid version `x y`"):
        build_folder(folder, "plugin", print)


# --- bytecode

SOURCES = [
    (
        "a/__init__.py",
        b"import os\nX = {'a', 'b', 'c'} | {1.5}\ndef f(x, *, y='.'):\n    return lambda: (x, y, 'zq')\n",
    ),
    ("a/b.py", b"from a import f\nclass C:\n    def m(self): return {'k': self.m.zq, '.': [1000, 1000, 2.5]}\n"),
    ("a/c.py", b"def f(zq): return zq in {'x', 'y', 'zq', 'long text with spaces'}\n"),
    ("a/old.py", b"print 'two'\n"),
]


def test_bytecode_does_not_depend_on_what_was_compiled_before(tmp_path: Path) -> None:
    script = (
        "import sys, marshal; sys.path.insert(0, sys.argv[1]);"
        "from clavitor_host.bundle.compile import compile_source;"
        "sources = marshal.loads(sys.stdin.buffer.read());"
        "made = sorted((name, compile_source(name, source)) for name, source in sources if b'two' not in source);"
        "sys.stdout.buffer.write(marshal.dumps(made))"
    )
    root = str(Path(wheels.__file__).parents[2])
    outputs = set()
    for seed, order in (("1", SOURCES), ("2", SOURCES[::-1]), ("3", [*SOURCES[1:], SOURCES[0]])):
        outputs.add(
            subprocess.run(
                [sys.executable, "-c", script, root],
                input=marshal.dumps(order),
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
        )
    assert len(outputs) == 1
    assert marshal.loads(outputs.pop()) == sorted((n, c) for n, c in compile_all(SOURCES, lambda d, t: None) if c)


def test_bytecode_is_trusted_without_its_source_and_names_no_folder() -> None:
    code = compile_source("a/c.py", SOURCES[2][1])
    assert code is not None
    assert code[4:8] == b"\x01\0\0\0"  # PEP 552: hash-based, unchecked
    assert b"a/c.py" in code
    assert compile_source("a/old.py", SOURCES[3][1]) is None


def test_what_is_nested_too_deep_has_no_bytecode(capfd: pytest.CaptureFixture[str]) -> None:
    deep = [("a.py", b"A = " + b"-" * 200_000 + b"1\n"), ("b.py", b"A = 1" + b"+1" * 100_000), SOURCES[0]]
    made = dict(compile_all(deep, lambda done, total: None))
    assert (made["a.py"], made["b.py"]) == (None, None)
    assert made["a/__init__.py"] == compile_source(*SOURCES[0])
    assert capfd.readouterr() == ("", "")


def test_a_compiler_that_dies_names_the_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "_own_source", lambda: "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(BundleError, match=r"^a/c\.py: it cannot be compiled: the compiler ended with signal 9$"):
        compile_all([SOURCES[2]], lambda done, total: None)


def test_a_damaged_cache_of_bytecode_is_not_believed(tmp_path: Path) -> None:
    calls: list[int] = []
    compiled = sorted(compile_wheels([("0" * 64, SOURCES[:3])], tmp_path, lambda done, total: calls.append(done)))
    assert calls
    calls.clear()
    assert (
        sorted(compile_wheels([("0" * 64, SOURCES[:3])], tmp_path, lambda done, total: calls.append(done))) == compiled
    )
    assert calls == []
    (file,) = tmp_path.rglob("0" * 64)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert (
        sorted(compile_wheels([("0" * 64, SOURCES[:3])], tmp_path, lambda done, total: calls.append(done))) == compiled
    )
    assert calls
