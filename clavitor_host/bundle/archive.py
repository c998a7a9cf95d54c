"""An artifact as a file: written in the one canonical form, and read without believing it."""

from __future__ import annotations

import os
import secrets
import stat
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
from clavitor_host.bundle.names import PLAIN, is_plain

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
        if not is_plain(name):
            raise BundleError(f"{name!r}: {PLAIN}")
    made = {**launcher_members(frozen), _frozen.PLUGINS: _frozen.plugins_module(frozen)}
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
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe or a device may never answer
            raise BundleError("not a file")
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
    for name, reason in launcher_faults(artifact):
        yield f"{name}: {reason}"


def launcher_faults(artifact: Artifact) -> Iterator[tuple[str, str]]:
    """Yield name and reason for each part of the launcher that is not what it must be for this frozen manifest.

    It is what this host's builder writes, and what the host package inside the artifact would write.
    """
    from clavitor_host import __version__

    have, frozen = set(artifact.names()), artifact.frozen
    versions = {each.name: each.version for each in frozen.distributions}
    host = versions.get("clavitor-host", __version__)
    hint = "" if host == __version__ else f" (the artifact's host is {host}, this one is {__version__})"
    expected = {**launcher_members(frozen), _frozen.PLUGINS: _frozen.plugins_module(frozen)}
    for name, data in sorted(expected.items()):
        origin = f"clavitor_host/bundle/launcher/{'stage1.py' if name == MAIN else LAUNCHER_SOURCES.get(name, '')}"
        if name not in have:
            yield name, "missing"
        elif artifact.data(name) != data:
            yield name, f"not what this host's builder writes{hint}"
        elif name == MAIN and origin in have and stage2.LAUNCHER in have:
            launcher = sha256(artifact.data(stage2.LAUNCHER)).hexdigest()
            if data != render_main(artifact.data(origin), launcher, frozen.python, frozen.platform):
                yield name, f"not what {origin} makes for this launcher"
        elif name in LAUNCHER_SOURCES and origin in have and artifact.data(origin) != data:
            yield name, f"not the same as {origin}"
