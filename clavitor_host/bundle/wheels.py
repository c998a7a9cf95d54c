"""Wheels: the cache of those a lock names, and reading one into the members it puts into an artifact.

A wheel is taken only when its members are exactly those of its RECORD, with the same digests, and when an artifact
can hold it: no shared libraries beside its extension modules, no archives inside, no strange names.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import lzma
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.names import normalized
from clavitor_host.terminal import printable

_EXTENSION = re.compile(r"[^/.]+(\.cpython-311-x86_64-linux-gnu|\.abi3)?\.so")
_SHARED = re.compile(r"\.so(\.\d+)*$")
_ARCHIVE = re.compile(r"\.(zip|whl|egg|jar|pyz)$", re.IGNORECASE)
_SAFE = re.compile(r"[ -~]+")
_UNRECORDED = ("RECORD", "RECORD.jws", "RECORD.p7s")
_DATA_ON_PATH = ("purelib", "platlib")
_DATA_LEFT_OUT = ("scripts", "headers", "data")


_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(OSError, NotImplementedError, RuntimeError, ValueError, LookupError, ArithmeticError),
)
"""What reading a ZIP file that was damaged, or made to harm, ends with."""


class Wheel(NamedTuple):
    """One wheel, read and checked. `members`: what it puts into the artifact, by name there."""

    name: str
    version: str
    file: str
    sha256: str
    metadata: Message
    members: dict[str, bytes]

    @property
    def requires(self) -> tuple[str, ...]:
        """Its requirements, as its metadata has them."""
        return tuple(self.metadata.get_all("Requires-Dist", ()))

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras that it has, normalised and sorted."""
        return tuple(sorted({normalized(name) for name in self.metadata.get_all("Provides-Extra", ())}))


def cache_folder(kind: str) -> Path:
    """Return the folder where things of a kind ("wheels", "pyc") are kept between runs; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "clavitor" / kind


def cached(file: str, sha256: str) -> bytes | None:
    """Return a wheel that was kept, None when it is not there or no longer what it was."""
    try:
        data = _place(file, sha256).read_bytes()
    except (OSError, ValueError):  # a name with a NUL is a ValueError
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def keep(file: str, data: bytes) -> str:
    """Put a wheel into the cache and return its sha256. Raises BundleError when it cannot be written."""
    sha256 = hashlib.sha256(data).hexdigest()
    place = _place(file, sha256)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data)
            Path(beside).replace(place)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BundleError(
            f"the cache of wheels {cache_folder('wheels')} cannot be written: {error.strerror}; "
            "name another folder in XDG_CACHE_HOME"
        ) from None
    except ValueError:
        raise BundleError(f"{printable(file)}: no file name") from None
    return sha256


def read(file: str, data: bytes) -> Wheel:
    """Read a wheel from its bytes and check it against its RECORD. Raises BundleError naming wheel and member."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            contents = {info.filename: archive.read(info) for info in infos}
    except _DAMAGED as error:
        raise BundleError(f"{file}: it is no wheel: {_said(error)}") from None
    if len(contents) != len(infos):
        raise BundleError(f"{file}: two of its members have the same name")
    dist_info = _dist_info(file, contents)
    _check_record(file, contents, dist_info)
    metadata = HeaderParser().parsestr(_text(file, contents, f"{dist_info}/METADATA"))
    name, version = str(metadata["Name"] or ""), str(metadata["Version"] or "")
    if not name or not version:
        raise BundleError(f"{file}: its METADATA has no name or no version")
    members = dict(_placed(file, contents, dist_info.removesuffix(".dist-info") + ".data/"))
    return Wheel(normalized(name), version, file, hashlib.sha256(data).hexdigest(), metadata, members)


def record_of(data: bytes, folder: str) -> bytes | None:
    """Return the RECORD of a wheel, whose `.dist-info` folder is given; None when it has none that can be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(f"{folder}/RECORD")
    except _DAMAGED:
        return None


def record_line(name: str, content: bytes) -> tuple[str, str, str]:
    """Return the RECORD row of a member."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return name, f"sha256={digest}", str(len(content))


def _place(file: str, sha256: str) -> Path:
    return cache_folder("wheels") / sha256 / file


def _dist_info(file: str, contents: dict[str, bytes]) -> str:
    found = {name.partition("/")[0] for name in contents if name.partition("/")[0].endswith(".dist-info")}
    if len(found) != 1:
        raise BundleError(f"{file}: it is no wheel: it has {len(found)} .dist-info folders")
    return found.pop()


def _check_record(file: str, contents: dict[str, bytes], dist_info: str) -> None:
    record = f"{dist_info}/RECORD"
    try:
        rows = {row[0]: row for row in csv.reader(_text(file, contents, record).splitlines()) if row}
    except csv.Error as error:
        raise BundleError(f"{file}: {record} cannot be read: {error}") from None
    unrecorded = {f"{dist_info}/{name}" for name in _UNRECORDED}
    for name, content in contents.items():
        if name in unrecorded:
            continue
        row = rows.pop(name, None)
        if row is None:
            raise BundleError(f"{file}: {name} is not in its RECORD")
        algorithm, _, expected = (row[1] if len(row) > 1 else "").partition("=")
        if algorithm not in ("sha256", "sha384", "sha512"):
            raise BundleError(f"{file}: {name} has no usable digest in its RECORD")
        found = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()
        if found != expected.rstrip("="):
            raise BundleError(f"{file}: {name} is not what its RECORD says")
    missing = sorted(rows.keys() - unrecorded)
    if missing:
        raise BundleError(f"{file}: {missing[0]} is in its RECORD and not in the wheel")


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _text(file: str, contents: dict[str, bytes], name: str) -> str:
    try:
        return contents[name].decode()
    except KeyError:
        raise BundleError(f"{file}: it is no wheel: {name} is missing") from None
    except UnicodeDecodeError:
        raise BundleError(f"{file}: {name} is not UTF-8") from None


def _placed(file: str, contents: dict[str, bytes], data_folder: str) -> Iterator[tuple[str, bytes]]:
    for name, content in contents.items():
        place: str | None = name
        if name.startswith(data_folder):
            kind, _, rest = name.removeprefix(data_folder).partition("/")
            if kind not in (*_DATA_ON_PATH, *_DATA_LEFT_OUT):
                raise BundleError(f"{file}: {name}: there is no such kind of data")
            place = rest if kind in _DATA_ON_PATH else None
        if place is not None:
            _check_place(file, place)
            yield place, content


def _check_place(file: str, name: str) -> None:
    parts = name.split("/")
    if not _SAFE.fullmatch(name) or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise BundleError(f"{file}: {name!r}: a bundle takes plain ASCII member names only")
    if _ARCHIVE.search(name):
        raise BundleError(f"{file}: {name}: a bundle takes no archive inside a wheel")
    library = _SHARED.search(name) and not _EXTENSION.fullmatch(parts[-1])
    if library or any(part.endswith(".libs") for part in parts[:-1]):
        raise BundleError(f"{file}: {name}: a bundle takes no shared library beside extension modules")
