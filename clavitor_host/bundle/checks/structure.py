"""The file itself: its one canonical form, plain members, and the launcher that this host would write."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

from clavitor_host.bundle.archive import Artifact, launcher_faults
from clavitor_host.bundle.checks.models import Check, Fault, count
from clavitor_host.bundle.checks.models import checked as result
from clavitor_host.bundle.launcher.stage2 import PREFIX, read
from clavitor_host.bundle.names import PLAIN, is_plain

STOCK_ARCHIVES: frozenset[str] = frozenset()
"""Members of stock wheels that are archives, by their exact names."""

_MAGIC = {
    b"PK\3\4": "zip",
    b"PK\5\6": "zip",
    b"PK\7\x08": "zip",
    b"\x1f\x8b": "gzip",
    b"\x1f\x9d": "compress",
    b"\x1f\xa0": "compress",
    b"\xfd7zXZ\0": "xz",
    b"]\0\0": "lzma",
    b"BZh": "bzip2",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
    b"LZIP": "lzip",
    b"Rar!\x1a\x07": "rar",
    b"MSCF": "cab",
    b"!<arch>\n": "ar",
    b"070701": "cpio",
    b"070702": "cpio",
    b"070707": "cpio",
    b"\xed\xab\xee\xdb": "rpm",
    b"hsqs": "squashfs",
    b"xar!": "xar",
}
_FIRST = frozenset(magic[:2] for magic in _MAGIC)
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


def check(artifact: Artifact, digests: Mapping[str, str]) -> Check:
    """Check the structure. `digests`: the real sha256 of every member."""
    names = artifact.names()
    faults = [*_canonical(artifact), *(Fault(*each) for each in launcher_faults(artifact))]
    for name in names:
        kind = "" if name in STOCK_ARCHIVES else archive_kind(artifact.data(name))
        if kind:
            faults.append(Fault(name, f"an archive or compressed data inside the artifact ({kind})"))
        if not is_plain(name):
            faults.append(Fault(name, PLAIN))
    size = artifact.layout.size
    what = (
        f"{count(len(digests), 'member')}, {size:,} bytes: the one form of a bundle, this host's launcher, no archives"
    )
    return result("structure", what, faults)


def archive_kind(data: bytes) -> str:
    """Return what kind of archive or compressed data this is, by its bytes; "" for none."""
    if data[:2] in _FIRST:
        for magic, kind in _MAGIC.items():
            if data.startswith(magic):
                return kind
    if data[257:262] == b"ustar":
        return "tar"
    if data[:2] in _ZLIB and _inflates(data):
        return "zlib"
    return "zip" if _ends_as_zip(data) else ""


def _ends_as_zip(data: bytes) -> bool:
    """Tell whether it ends as a ZIP file does, which may begin as anything."""
    tail = data[-(22 + 65_535) :]
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        if at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail):
            return True
        at = tail.rfind(b"PK\5\6", 0, at)
    return False


def _inflates(data: bytes) -> bool:
    try:
        return len(zlib.decompressobj().decompress(data[:4096], 65_536)) > 0
    except zlib.error:
        return False


def _canonical(artifact: Artifact) -> Iterator[Fault]:
    """Compare every byte that is not a member's with the one layout of these members; theirs are hashed elsewhere."""
    layout, file = artifact.layout, artifact.fd
    if read(file, len(PREFIX), 0) != PREFIX:
        yield Fault("the first two lines", "not what a bundle begins with")
    for name, header, at, *_ in layout.regions:
        if read(file, len(header), at) != header:
            yield Fault(name, "its local header is not in canonical form")
    at = layout.start
    for (name, *_), entry in zip(layout.regions, layout.central, strict=True):
        if read(file, len(entry), at) != entry:
            yield Fault(name, "its entry in the central directory is not in canonical form")
        at += len(entry)
    if read(file, len(layout.end) + 1, at) != layout.end:
        yield Fault("the end record", "not in canonical form, or not at the end of the file")
