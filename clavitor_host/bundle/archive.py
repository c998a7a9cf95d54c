"""An artifact as a file: written in the one canonical form, and read without believing it."""

from __future__ import annotations

import os
import secrets
from binascii import crc32
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from clavitor_host.bundle import frozen as _frozen
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.frozen import FrozenManifest, FrozenMember
from clavitor_host.bundle.launcher import render_main, stage2

MAIN = "__main__.py"
LAUNCHER_SOURCES = {
    stage2.LAUNCHER: "stage2.py",
    stage2.IMPORTER: "importer.py",
    stage2.RESOURCES: "resources.py",
}
GENERATED = frozenset({MAIN, stage2.MANIFEST, _frozen.PLUGINS, *LAUNCHER_SOURCES})
"""The members that come from no wheel."""

MOST_MEMBERS = 65_000
MOST_BYTES = 2**32 - 1
"""Beyond these a ZIP file needs extensions that Python's own importer does not read."""


def write(path: Path, frozen: FrozenManifest, members: Mapping[str, bytes]) -> FrozenManifest:
    """Write an artifact of these members and the launcher; return its frozen manifest.

    `frozen` has no members yet. The file appears under its name when it is whole, or not at all. Raises `BundleError`.
    """
    everything = {**members, **_generated(frozen, members)}
    frozen = frozen._replace(
        members=tuple(
            FrozenMember(name, len(data), crc32(data), sha256(data).hexdigest())
            for name, data in sorted(everything.items())
        )
    )
    everything[stage2.MANIFEST] = manifest = _frozen.to_bytes(frozen)
    layout = stage2.layout(frozen.members, manifest)
    if len(everything) > MOST_MEMBERS or layout.size > MOST_BYTES:
        raise BundleError(
            f"{path}: {len(everything)} members of {layout.size} bytes are more than an artifact can hold"
        )
    _write_whole(path, _pieces(layout, everything))
    return frozen


def _pieces(layout: stage2.Layout, members: Mapping[str, bytes]) -> Iterator[bytes]:
    yield stage2.PREFIX
    for name, header, *_ in layout.regions:
        yield header
        yield members[name]
    yield from layout.central
    yield layout.end


def _generated(frozen: FrozenManifest, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the members made here; refuse names that would not survive, or would be taken for them."""
    for name in members:
        parts = name.split("/")
        if not name.isascii() or not name.isprintable() or "\\" in name or {"", ".", ".."} & set(parts):
            raise BundleError(f"{name!r}: no name for a member: plain ASCII, relative, without . and .. is needed")
    made = launcher_members(frozen)
    made[_frozen.PLUGINS] = _frozen.plugins_module(frozen)
    roots = {name.removesuffix(".py") for name in made} | {stage2.MANIFEST}
    for name, data in members.items():
        if name.partition("/")[0].partition(".")[0] in roots and made.get(name) != data:
            if name.endswith("c") and name[:-1] in made.keys() - {MAIN, stage2.LAUNCHER}:
                continue  # compiled by the builder
            raise BundleError(f"{name}: this name belongs to the launcher")
    return made


def launcher_members(frozen: FrozenManifest) -> dict[str, bytes]:
    """Return `__main__.py` and the other members the launcher is made of, as this host's source has them."""
    folder = files("clavitor_host.bundle.launcher")
    made = {name: (folder / source).read_bytes() for name, source in LAUNCHER_SOURCES.items()}
    made[MAIN] = render_main(
        (folder / "stage1.py").read_bytes(), sha256(made[stage2.LAUNCHER]).hexdigest(), frozen.python, frozen.platform
    )
    return made


def _write_whole(path: Path, pieces: Iterator[bytes]) -> None:
    """Write beside, flush to the disk, rename. Nothing is left behind when any of it fails."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb", buffering=1 << 20) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), 0o755)
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise BundleError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


class Artifact:
    """An open artifact: its frozen manifest, and its members' bytes as they are in the file, unchecked."""

    def __init__(self, path: Path, fd: int, manifest: bytes, layout: stage2.Layout, frozen: FrozenManifest) -> None:
        self.path = path
        self.fd = fd
        self.manifest = manifest
        self.layout = layout
        self.frozen = frozen
        self._places = {name: (at + len(header), size) for name, header, at, size, _ in layout.regions}

    def names(self) -> list[str]:
        """Return the names of all members, the frozen manifest's too, in the order of the file."""
        return list(self._places)

    def data(self, name: str) -> bytes:
        """Return a member's bytes. Raises `BundleError` when there is none of this name."""
        try:
            offset, size = self._places[name]
        except KeyError:
            raise BundleError(f"{self.path.name}: {name}: no such member") from None
        return stage2.read(self.fd, size, offset)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_artifact(path: Path) -> Artifact:
    """Open an artifact. Raises `BundleError` for a file that is none, or whose frozen manifest cannot be trusted."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    try:
        manifest = stage2.read_manifest(fd)
        frozen = _frozen.from_bytes(manifest)
        return Artifact(path, fd, manifest, stage2.plan(manifest), frozen)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise BundleError(f"{path} cannot be read: {error.strerror}") from error
        if isinstance(error, stage2.ArtifactError | BundleError):
            raise BundleError(f"{path.name}: {error}") from error
        raise


def structural_faults(artifact: Artifact) -> Iterator[str]:
    """Yield what is wrong with the file itself, each a line that begins with the member's name.

    Any byte that differs from what was frozen; a launcher that is not the one in the artifact's own host package.
    """
    yield from stage2.faults(artifact.fd, artifact.layout)
    yield from _launcher_faults(artifact)


def _launcher_faults(artifact: Artifact) -> Iterator[str]:
    have = set(artifact.names())
    for name in sorted(GENERATED - have):
        yield f"{name}: missing"
    if not have >= GENERATED:
        return
    for name, source in LAUNCHER_SOURCES.items():
        origin = f"clavitor_host/bundle/launcher/{source}"
        if origin in have and artifact.data(origin) != artifact.data(name):
            yield f"{name}: not the same as {origin}"
    origin = "clavitor_host/bundle/launcher/stage1.py"
    frozen, launcher = artifact.frozen, sha256(artifact.data(stage2.LAUNCHER)).hexdigest()
    if origin in have and artifact.data(MAIN) != render_main(
        artifact.data(origin), launcher, frozen.python, frozen.platform
    ):
        yield f"{MAIN}: not what {origin} makes for this launcher"
    if artifact.data(_frozen.PLUGINS) != _frozen.plugins_module(frozen):
        yield f"{_frozen.PLUGINS}: names other plugins than {stage2.MANIFEST}"
