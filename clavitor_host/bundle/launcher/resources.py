"""Files and distributions in the artifact, for `importlib.resources` and `importlib.metadata`.

Becomes `clavitor_resources.py`; imported when something asks. Standard library alone.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from errno import EISDIR, ENOENT
from importlib.metadata import Distribution, DistributionFinder
from importlib.resources.abc import TraversableResources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clavitor_host.bundle.launcher.importer import Importer


class Place:
    """A file or folder of the artifact, as `importlib.resources.files` gives it (`importlib.abc.Traversable`)."""

    def __init__(self, importer: Importer, key: str) -> None:
        self._importer = importer
        self._key = key

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._key.rpartition("/")[2]

    @property
    def parent(self) -> Place:
        """The folder it is in."""
        return Place(self._importer, self._key.rpartition("/")[0])

    def is_file(self) -> bool:
        """Return whether it is a member."""
        return self._key in self._importer.store.table

    def is_dir(self) -> bool:
        """Return whether members are below it."""
        return self._importer.is_folder(self._key)

    def exists(self) -> bool:
        """Return whether it is a file or a folder."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[Place]:
        """Yield what is in this folder."""
        if not self.is_dir():
            raise self._missing()
        return (self.joinpath(child) for child in self._importer.children(self._key))

    def joinpath(self, *descendants: Any) -> Place:
        """Return what is at a path below it. Raises FileNotFoundError for one outside the artifact."""
        path = "/".join([self._importer.root + self._key, *map(os.fspath, descendants)])
        return Place(self._importer, self._importer.key_of(os.path.normpath(path)))

    __truediv__ = joinpath

    def read_bytes(self) -> bytes:
        """Return the file's bytes."""
        try:
            return self._importer.store.read(self._key)
        except KeyError:
            raise self._missing() from None

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the file's text; UTF-8 when nothing else is said."""
        with self.open(encoding=encoding, errors=errors) as file:
            text: str = file.read()
        return text

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open the file for reading, as text or with "rb"."""
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"an artifact can only be read, not opened with mode {mode!r}")
        file = io.BytesIO(self.read_bytes())
        return file if mode == "rb" else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def _missing(self) -> OSError:
        error = EISDIR if self.is_dir() else ENOENT
        return OSError(error, os.strerror(error), str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return (self._importer.root + self._key).rstrip("/")

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"


class Reader(TraversableResources):
    """What a package's loader gives to `importlib.resources`."""

    def __init__(self, importer: Importer, key: str) -> None:
        self._place = Place(importer, key)

    def files(self) -> Any:
        """Return the package's folder."""
        return self._place


class FrozenDistribution(Distribution):
    """A vendored distribution: its metadata are members below `NAME-VERSION.dist-info`."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder

    def read_text(self, filename: Any) -> str | None:
        """Return the text of a metadata file; None when there is none of this name."""
        place = self._folder / filename
        return place.read_text() if place.is_file() else None

    def locate_file(self, path: Any) -> Any:
        """Return the place of a file that RECORD names."""
        return self._folder.parent / path


def distributions(importer: Importer, context: DistributionFinder.Context | None) -> Iterable[Distribution]:
    """Return the distributions in the artifact that this search is for: by name, and not on another path."""
    wanted = _normalized(context.name) if context is not None and context.name else None
    if context is not None and "path" in vars(context) and importer.store.path not in context.path:
        return
    for child in importer.children(""):
        name, found, _ = child.removesuffix(".dist-info").partition("-")
        if child.endswith(".dist-info") and found and wanted in (None, _normalized(name)):
            yield FrozenDistribution(Place(importer, child))


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
