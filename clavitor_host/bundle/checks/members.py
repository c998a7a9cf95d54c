"""The members: each is what was frozen, and each belongs to exactly one distribution."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections.abc import Iterator, Mapping
from email.parser import BytesHeaderParser
from typing import NamedTuple
from zlib import crc32

from clavitor_host.bundle.archive import GENERATED, Artifact
from clavitor_host.bundle.checks.models import Check, Fault, checked, count
from clavitor_host.bundle.launcher.stage2 import MANIFEST

_UNRECORDED = ("RECORD", "RECORD.jws", "RECORD.p7s")
_LEFT_OUT = re.compile(r"[^/]+\.data/(scripts|headers|data)/")
_MOVED = re.compile(r"[^/]+\.data/(purelib|platlib)/")


class Installed(NamedTuple):
    """One distribution as its `.dist-info` folder in the artifact tells it."""

    name: str
    version: str
    folder: str


def check_frozen(artifact: Artifact, digests: Mapping[str, str]) -> Check:
    """Compare every member's bytes with the frozen manifest, and that with the end of the file."""
    faults: list[Fault] = []
    members = artifact.frozen.members
    for name, size, crc, digest in members:
        data = artifact.data(name)
        if len(data) != size:
            faults.append(Fault(name, f"{len(data)} bytes, {size} were frozen"))
        elif digests[name] != digest:
            faults.append(Fault(name, f"sha256 {digests[name][:12]}…, {digest[:12]}… was frozen"))
        elif crc32(data) != crc:
            faults.append(Fault(name, f"CRC {crc32(data):08x}, {crc:08x} was frozen"))
    if not artifact.layout.end.endswith(digests[MANIFEST].encode()):
        faults.append(Fault(MANIFEST, "not what the end of the file says"))
    return checked(
        "members", f"sha256, size and CRC of {count(len(members), 'member')} against the frozen manifest", faults
    )


def check_records(artifact: Artifact, digests: Mapping[str, str]) -> Check:
    """Compare every member with the RECORD of the wheel it came in."""
    names = set(artifact.names())
    owners: dict[str, str] = {}
    faults: list[Fault] = []
    folders = dist_infos(artifact)
    for folder in folders:
        record = f"{folder}/RECORD"
        if record not in names:
            faults.append(Fault(record, "missing"))
            continue
        for name, hashed, size in _rows(artifact.data(record), folder):
            if name in owners:
                faults.append(Fault(name, f"belongs to two distributions: {owners[name]} and {record}"))
            owners[name] = record
            if name not in names:
                faults.append(Fault(name, f"{record} lists it, and it is missing"))
            elif hashed is not None and not _fits(artifact, name, hashed, size, digests):
                faults.append(Fault(name, f"not what {record} says"))
    unowned = names - owners.keys() - GENERATED
    for name in sorted(unowned):
        source = name.removesuffix("c")
        if not (name.endswith(".pyc") and (source in owners or (source in GENERATED and source in names))):
            faults.append(Fault(name, "belongs to no distribution"))
    what = f"{count(len(owners), 'member')} against the RECORD of {count(len(folders), 'distribution')}, each in one"
    return checked("records", what, faults)


def dist_infos(artifact: Artifact) -> list[str]:
    """Return the `.dist-info` folders at the root."""
    return sorted({folder for name in artifact.names() if (folder := name.partition("/")[0]).endswith(".dist-info")})


def installed(artifact: Artifact) -> Iterator[Installed]:
    """Yield the distributions as their own METADATA names them."""
    names = set(artifact.names())
    for folder in dist_infos(artifact):
        file = f"{folder}/METADATA"
        head = BytesHeaderParser().parsebytes(artifact.data(file) if file in names else b"")
        yield Installed(normalized(str(head.get("Name", ""))), str(head.get("Version", "")), folder)


def normalized(name: str) -> str:
    """Return a distribution's name in its one canonical form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _rows(record: bytes, folder: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield name in the artifact, digest (None for what no RECORD can hold the digest of) and size."""
    for row in csv.reader(record.decode("utf-8", "replace").splitlines()):
        if not row or _LEFT_OUT.match(row[0]):
            continue
        name = _MOVED.sub("", row[0], count=1)
        unrecorded = name in [f"{folder}/{each}" for each in _UNRECORDED]
        yield name, None if unrecorded else row[1] if len(row) > 1 else "", row[2] if len(row) > 2 else ""


def _fits(artifact: Artifact, name: str, hashed: str, size: str, digests: Mapping[str, str]) -> bool:
    algorithm, _, expected = hashed.partition("=")
    if algorithm == "sha256":
        found = bytes.fromhex(digests[name])
    elif algorithm in ("sha384", "sha512"):
        found = hashlib.new(algorithm, artifact.data(name)).digest()
    else:
        return False
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != expected.rstrip("="):
        return False
    return not size or size == str(len(artifact.data(name)))
