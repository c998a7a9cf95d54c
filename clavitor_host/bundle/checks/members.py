"""The members: each is what was frozen, and each belongs to exactly one distribution."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from email.parser import BytesHeaderParser
from typing import NamedTuple
from zlib import crc32

from clavitor_host.bundle.archive import GENERATED, Artifact
from clavitor_host.bundle.checks import modules
from clavitor_host.bundle.checks.models import Check, Fault, checked, count
from clavitor_host.bundle.launcher.stage2 import MANIFEST
from clavitor_host.bundle.names import normalized

HOST = "clavitor-host"

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


class Row(NamedTuple):
    """One row of a RECORD. `listed`: the name there; `name`: in the artifact, "" for what no artifact holds.

    `digest` is None for what no RECORD can hold the digest of.
    """

    listed: str
    name: str
    digest: str | None
    size: str


class Records(NamedTuple):
    """What every RECORD says: its rows by its name, and by member the `.dist-info` folder that lists it."""

    rows: Mapping[str, Sequence[Row]]
    owners: Mapping[str, str]
    faults: Sequence[Fault]

    def owner(self, member: str) -> str | None:
        """Return the `.dist-info` folder that a member belongs to; bytecode belongs to where its source does."""
        return self.owners.get(member) or (self.owners.get(member[:-1]) if member.endswith(".pyc") else None)


def read_records(artifact: Artifact) -> Records:
    """Read the RECORD of every distribution inside."""
    names = set(artifact.names())
    rows: dict[str, list[Row]] = {}
    owners: dict[str, str] = {}
    faults: list[Fault] = []
    for folder in dist_infos(artifact):
        record = f"{folder}/RECORD"
        if record not in names:
            faults.append(Fault(record, "missing"))
            continue
        try:
            rows[record] = list(_rows(artifact.data(record), folder))
        except csv.Error as error:
            faults.append(Fault(record, f"cannot be read: {error}"))
            continue
        for row in rows[record]:
            if row.name and row.name in owners:
                faults.append(Fault(row.name, f"belongs to two distributions: {owners[row.name]}/RECORD and {record}"))
            if row.name:
                owners[row.name] = folder
    return Records(rows, owners, faults)


def check_records(artifact: Artifact, digests: Mapping[str, str], records: Records) -> Check:
    """Compare every member with the RECORD of the wheel it came in, and tell apart what would be one module."""
    names = set(artifact.names())
    faults: list[Fault] = list(records.faults)
    for record, rows in records.rows.items():
        for row in rows:
            if row.name and row.name not in names:
                faults.append(Fault(row.name, f"{record} lists it, and it is missing"))
            elif row.name and row.digest is not None and not _fits(artifact, row, digests):
                faults.append(Fault(row.name, f"not what {record} says"))
    owners = records.owners
    for name in sorted(names - owners.keys() - GENERATED):
        source = name.removesuffix("c")
        if not (name.endswith(".pyc") and (source in owners or (source in GENERATED and source in names))):
            faults.append(Fault(name, "belongs to no distribution"))
    host = {each.folder for each in installed(artifact) if each.name == HOST}
    faults += modules.faults(artifact.names(), records.owner, host)
    what = f"{count(len(owners), 'member')} against the RECORD of {count(len(records.rows), 'distribution')}"
    return checked("records", f"{what}, each in one, and each module once", faults)


def local_folders(artifact: Artifact) -> set[str]:
    """Return the `.dist-info` folders of the distributions that were built from the checkout, by their own word."""
    local = {each.name for each in artifact.frozen.distributions if each.local} | {HOST}
    return {each.folder for each in installed(artifact) if each.name in local}


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


def _rows(record: bytes, folder: str) -> Iterator[Row]:
    for fields in csv.reader(record.decode("utf-8", "replace").splitlines()):
        if not fields:
            continue
        listed, digest, size, *_ = [*fields, "", ""]
        name = "" if _LEFT_OUT.match(listed) else _MOVED.sub("", listed, count=1)
        unrecorded = name in [f"{folder}/{each}" for each in _UNRECORDED]
        yield Row(listed, name, None if unrecorded else digest, size)


def _fits(artifact: Artifact, row: Row, digests: Mapping[str, str]) -> bool:
    algorithm, _, expected = (row.digest or "").partition("=")
    if algorithm == "sha256":
        found = bytes.fromhex(digests[row.name])
    elif algorithm in ("sha384", "sha512"):
        found = hashlib.new(algorithm, artifact.data(row.name)).digest()
    else:
        return False
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != expected.rstrip("="):
        return False
    return not row.size or row.size == str(len(artifact.data(row.name)))
