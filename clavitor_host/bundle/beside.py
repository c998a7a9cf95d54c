"""The files beside an artifact: their names, what the checksum and the provenance say, and writing them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from clavitor_host import strict_json
from clavitor_host.bundle.errors import BundleError
from clavitor_host.strict_json import StrictJSONError
from clavitor_host.terminal import printable

CHECKSUM = ".sha256"
SBOM = ".cdx.json"
PROVENANCE = ".intoto.json"
SIGNATURE = ".sha256.sig"
ENVELOPE = ".intoto.dsse.json"

LARGEST = 64 * 1024 * 1024
"""Bytes of the largest file beside an artifact that is read."""


def beside(artifact: Path, suffix: str) -> Path:
    """Return the path of the file beside `artifact` with this suffix."""
    return artifact.with_name(artifact.name + suffix)


def is_there(path: Path) -> bool:
    """Tell whether there is a file, also for a name that is too long to be one's."""
    try:
        return path.exists()
    except OSError:
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; a pipe or a device, which may never answer, is none. Raises OSError, BundleError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise BundleError(f"{path}: not a file")


def read_file(path: Path) -> bytes:
    """Read a whole file. Raises FileNotFoundError, also for a name too long, or BundleError for what cannot be read."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise BundleError(f"{path}: {size} bytes, more than any file beside an artifact has")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file. Raises BundleError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def checksum_fault(artifact: Path, data: bytes, digest: str) -> str:
    """Return why `data`, the checksum file, does not say that `artifact` has `digest`; "" when it does."""
    name = artifact.name + CHECKSUM
    words = data.decode("ascii", "replace").split()
    if len(words) != 2 or data != f"{words[0]}  {words[1]}\n".encode():
        return f"{name}: not one line of sha256sum"
    if words[1].removeprefix("*") != artifact.name:
        return f"{name}: is about {printable(words[1])}, not {artifact.name}"
    if words[0] != digest:
        return f"{name}: says {printable(words[0][:12])}…, the file has {digest[:12]}…"
    return ""


def provenance_fault(artifact: Path, data: bytes, digest: str) -> str:
    """Return why `data`, an in-toto statement, is not about `artifact` with `digest`; "" when it is."""
    name = artifact.name + PROVENANCE
    try:
        statement = strict_json.loads(data)
    except StrictJSONError as error:
        return f"{name}: not JSON: {error}"
    if not isinstance(statement, dict) or statement.get("_type") != "https://in-toto.io/Statement/v1":
        return f"{name}: not an in-toto statement, version 1"
    subjects: Any = statement.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], dict):
        return f"{name}: not about exactly one file"
    if subjects[0].get("name") != artifact.name:
        return f"{name}: is about {printable(str(subjects[0].get('name')))}, not {artifact.name}"
    if subjects[0].get("digest") != {"sha256": digest}:
        return f"{name}: its subject digest is not the file's sha256 {digest[:12]}…"
    return ""


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write files so that each is whole or absent, and none appears when one cannot be written. Raises BundleError."""
    parts: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            part = parts[path] = path.with_name(f".{path.name}.{os.getpid()}.part")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            part.replace(path)
        for folder in {path.parent for path in files}:
            sync(folder)
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Flush to the disk which files a folder has. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
