"""The bundles of this checkout, built once for all tests and workers of a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from clavitor_host.bundle.manifest import names

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
"""Seconds that fetching and building may take on a fresh, busy machine."""

_NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "dist", "data")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout as it is now, new files too, with its locks made to fit: one for the whole run.

    It is no git checkout. `test_build` tells whether the locks in the checkout itself are fresh.
    """
    place = _shared(tmp_path_factory)
    copy = place / "tree"
    with _locked(place / "tree.lock"):
        if not (place / "tree.done").exists():
            shutil.rmtree(copy, ignore_errors=True)
            copy_sources(copy)
            clavitor(copy, "bundle", "lock", "--all")
            (place / "tree.done").touch()
    return copy


@pytest.fixture(scope="session")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the artifact of `community`, `commercial` or `minimal`, built when it is first asked for."""
    place = _shared(tmp_path_factory)

    def artifact(name: str) -> Path:
        assert name in names(tree), f"there is no manifest {name}"
        folder = place / name
        with _locked(place / f"{name}.lock"):
            if not (place / f"{name}.done").exists():
                clavitor(tree, "bundle", "build", name, "-o", str(folder))
                (place / f"{name}.done").touch()
        return folder / f"clavitor-{name}-{_version(tree)}.pyz"

    return artifact


def copy_sources(target: Path) -> None:
    """Copy what git tracks or would track of this checkout; outside of git, all but what programs leave behind."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, target, ignore=_NOT_SOURCE)
        return
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def attempt(tree: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `clavitor` of another tree, in it, with this environment's packages. env: added to this process's."""
    return subprocess.run(
        [sys.executable, "-m", "clavitor_host", *arguments],
        cwd=tree,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def clavitor(tree: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run `clavitor` of another tree as `attempt` does, and return what it prints.

    Fails the test with its error: where a package index is needed and cannot be reached, that is what it says.
    """
    done = attempt(tree, *arguments, env=env)
    if done.returncode:
        pytest.fail(f"clavitor {' '.join(arguments)}: {done.stderr}", pytrace=False)
    return done.stdout


def _shared(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of this run share."""
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"
    place.mkdir(exist_ok=True)
    return place


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _version(tree: Path) -> str:
    text = (tree / "clavitor_host" / "__init__.py").read_text("utf-8")
    return text.partition('__version__ = "')[2].partition('"')[0]
