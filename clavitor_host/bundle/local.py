"""Our own distributions, and a third party's folder: built by hatchling from what git tracks, the same everywhere.

The files are exported first, so that neither what lies around in the folder nor its modes and dates matter; the
wheel is then written again in one canonical form, so that neither the compressor nor hatchling's version does.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.wheels import record_line

_CACHES = re.compile(
    r"__pycache__|.*\.pyc|.*\.egg-info|node_modules|\.(git|hg|venv|tox|tools|hypothesis|DS_Store)|\.[a-z_]+_cache"
)
_IGNORE_FILES = (".gitignore", ".hgignore")
_DATE = (1980, 1, 1, 0, 0, 0)
_GENERATOR = re.compile(rb"^Generator: hatchling .*$", re.MULTILINE)
_SHOWN = 3


def build_folder(folder: Path, shown: str, warn: Callable[[str], None]) -> tuple[str, bytes]:
    """Build the wheel of a project folder and return its file name and bytes.

    shown: the folder as messages name it. warn: called with one line for what was left out. Raises BundleError.
    """
    project = _project(folder, shown)
    with tempfile.TemporaryDirectory(prefix="clavitor-build-") as place:
        export = Path(place, "export")
        packages, texts = _packages(project, folder), _texts(project)
        names = _files(folder, shown, packages, warn)
        _export(folder, export, [name for name in names if _may_matter(name, packages, texts)])
        return _built(export, Path(place, "wheel"), shown)


def _project(folder: Path, shown: str) -> dict[str, Any]:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{shown} has no pyproject.toml") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{shown}/pyproject.toml cannot be read: {error}") from None
    backend = project.get("build-system", {}).get("build-backend")
    if backend != "hatchling.build":
        raise BundleError(
            f"{shown}/pyproject.toml: build-system.build-backend is {backend!r}: a bundle builds folders with "
            "hatchling.build, which is reproducible; give the plugin as a wheel instead"
        )
    return project


def _packages(project: dict[str, Any], folder: Path) -> list[str]:
    """Return the folders that the wheel takes; all of it when the project says anything more of that."""
    hatch = project.get("tool", {}).get("hatch", {})
    packages = hatch.get("build", {}).get("targets", {}).get("wheel", {}).get("packages", [])
    if hatch != {"build": {"targets": {"wheel": {"packages": packages}}}} or not packages:
        return ["."]
    return [str(package) for package in packages if (folder / str(package)).exists()]


def _texts(project: dict[str, Any]) -> list[str]:
    """Return the files that the metadata takes, as patterns."""
    metadata = project.get("project", {})
    readme = metadata.get("readme", "")
    return [str(readme.get("file", "") if isinstance(readme, dict) else readme), *metadata.get("license-files", [])]


def _may_matter(name: str, packages: list[str], texts: list[str]) -> bool:
    """Tell whether a file can be part of the wheel: at the top, of a package, or a text of the metadata."""
    if packages == ["."] or "/" not in name or any(fnmatchcase(name, text) for text in texts):
        return True
    return any(name.startswith(f"{package.rstrip('/')}/") for package in packages)


def _files(folder: Path, shown: str, packages: list[str], warn: Callable[[str], None]) -> list[str]:
    tracked = _git(folder, shown, "--cached")
    if tracked is None:
        return sorted(_all_but_caches(folder))
    untracked = _git(folder, shown, "--others", "--exclude-standard", "--", *packages) or []
    if not tracked:
        warn(f"git tracks no file of {shown}, so all that it does not ignore are taken")
        return sorted(_git(folder, shown, "--others", "--exclude-standard") or [])
    nested = {PurePosixPath(name).parent for name in tracked if PurePosixPath(name).name == "pyproject.toml"}
    nested.discard(PurePosixPath())
    if untracked:
        more = f" and {len(untracked) - _SHOWN} more" if len(untracked) > _SHOWN else ""
        warn(f"not tracked by git, so not in the bundle: {', '.join(sorted(untracked)[:_SHOWN])}{more} (of {shown})")
    return sorted(name for name in set(tracked) if nested.isdisjoint(PurePosixPath(name).parents))


def _git(folder: Path, shown: str, *arguments: str) -> list[str] | None:
    """Return file names from `git ls-files`, relative to the folder; None when it is not in a git checkout."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=False)  # noqa: S603
    except OSError as error:
        raise BundleError(f"git, which knows the files of {shown}, cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it failed"]
        raise BundleError(f"git cannot list the files of {shown}: {lines[0]}")
    return [name for name in done.stdout.decode("utf-8", "surrogateescape").split("\0") if name]


def _all_but_caches(folder: Path) -> Iterable[str]:
    for base, folders, files in os.walk(folder):
        here = Path(base)
        nested = here != folder and "pyproject.toml" in files
        folders[:] = [] if nested else [name for name in folders if not _CACHES.fullmatch(name)]
        if not nested:
            yield from ((here / name).relative_to(folder).as_posix() for name in files if not _CACHES.fullmatch(name))


def _export(folder: Path, export: Path, names: Iterable[str]) -> None:
    export.mkdir()
    made: set[Path] = set()
    for name in names:
        source, target = folder / name, export / name
        if target.name in _IGNORE_FILES or not source.is_file():  # deleted in the working tree: not there to build
            continue
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        shutil.copyfile(source, target)
    (export / ".gitignore").touch()  # hatchling looks no further up for one


def _built(export: Path, out: Path, shown: str) -> tuple[str, bytes]:
    from hatchling.builders.wheel import WheelBuilder

    try:
        wheel = Path(next(iter(WheelBuilder(str(export)).build(directory=str(out), versions=["standard"]))))
        return wheel.name, canonical(wheel.read_bytes())
    except BundleError:
        raise
    except Exception as error:  # a build hook may raise anything
        text = " ".join(str(error).split()).replace(str(export), shown)
        raise BundleError(f"{shown} cannot be built: {text or type(error).__name__}") from error


def canonical(wheel: bytes) -> bytes:
    """Return a wheel as a function of its members alone: stored, sorted, without dates, modes and versions of tools."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    record = next(name for name in contents if name.endswith(".dist-info/RECORD"))
    tags = record.replace("RECORD", "WHEEL")
    contents[tags] = _GENERATOR.sub(b"Generator: hatchling", contents[tags])
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerows(record_line(name, contents[name]) for name in sorted(contents) if name != record)
    writer.writerow((record, "", ""))
    contents[record] = rows.getvalue().encode()
    return packed(contents)


def packed(contents: Mapping[str, bytes]) -> bytes:
    """Return the one wheel of these members; that of what `canonical` made, when nothing of it changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(contents):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, contents[name])
    return out.getvalue()
