"""A small artifact made by hand: its program runs the Python statements it is given as first argument."""

from __future__ import annotations

import importlib.util
import marshal
import os
import subprocess
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import CodeType

import markupsafe._speedups

from clavitor_host.bundle import archive
from clavitor_host.bundle.frozen import FrozenEntry, FrozenManifest

PYTHON = "/usr/bin/python3"

PROGRAM = """
import sys

def main():
    exec(sys.argv[1], {"__name__": "program", "arguments": sys.argv[2:]})
"""

COUNTER = """
def fail():
    raise ValueError("out of goods")  # here it breaks


class Shelf:
    size = 3
"""

METADATA = "Metadata-Version: 2.1\nName: shop.goods\nVersion: 1.2\nSummary: goods\n"
ENTRY_POINTS = "[shop.things]\ncounter = shop.counter:Shelf\n"

SPEEDUPS = "markupsafe/_speedups" + EXTENSION_SUFFIXES[0]


def compiled(name: str, source: str) -> bytes:
    """Return the `.pyc` of a member, as a builder makes it: by unchecked hash, with the member's name in it."""
    code: CodeType = compile(source, name, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(source.encode()) + marshal.dumps(code)


def some_members() -> dict[str, bytes]:
    """Return a program, a package with data, a namespace, a compiled module, a distribution, an extension module."""
    assert markupsafe._speedups.__file__
    speedups = Path(markupsafe._speedups.__file__)
    record = "shop/__init__.py,,\nshop/text.txt,,\nshop_goods-1.2.dist-info/METADATA,,\n"
    sources = {
        "clavitor_host/__init__.py": "",
        "clavitor_host/__main__.py": PROGRAM,
        "late.py": "VALUE = 'late'\n",
        "shop/__init__.py": "",
        "shop/counter.py": COUNTER,
        "shop/data/more.txt": "more\n",
        "shop/text.txt": "ware\n",
        "shop_goods-1.2.dist-info/METADATA": METADATA,
        "shop_goods-1.2.dist-info/RECORD": record,
        "shop_goods-1.2.dist-info/entry_points.txt": ENTRY_POINTS,
        "space/inner.py": "VALUE = 'inner'\n",
        "space/text.txt": "space\n",
        "markupsafe/__init__.py": "",
    }
    members = {name: text.encode() for name, text in sources.items()}
    members["shop/counter.pyc"] = compiled("shop/counter.py", COUNTER)
    members[SPEEDUPS] = speedups.read_bytes()
    return members


def small_frozen(python: str = "3.11", platform: str = "linux_x86_64", *plugins: FrozenEntry) -> FrozenManifest:
    """Return a frozen manifest without members."""
    return FrozenManifest(
        "clavitor-small", "1.0.0", "community", "Elastic-2.0", python, platform, "3.11.2", plugins, (), {}
    )


def small_artifact(
    path: Path, members: Mapping[str, bytes] | None = None, frozen: FrozenManifest | None = None
) -> Path:
    """Write a runnable artifact of `some_members` and these; return its path."""
    archive.write(path, frozen or small_frozen(), {**some_members(), **(members or {})})
    return path


def start(
    artifact: Path | str,
    *arguments: str,
    command: tuple[str, ...] = (PYTHON,),
    env: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
) -> subprocess.CompletedProcess[str]:
    """Run an artifact to its end, with nothing in the environment but PATH and `env`."""
    environ = {"PATH": os.defpath, **(env or {})}
    return subprocess.run(
        [*command, str(artifact), *arguments], env=environ, cwd=cwd, capture_output=True, text=True, check=False
    )
