"""The two signatures: over the checksum file, and over the provenance in its envelope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from clavitor_host.bundle import dsse
from clavitor_host.bundle.beside import (
    CHECKSUM,
    ENVELOPE,
    PROVENANCE,
    SIGNATURE,
    beside,
    checksum_fault,
    is_there,
    provenance_fault,
    read_file,
)
from clavitor_host.bundle.checks.models import Check, Fault, Subject, checked, skipped
from clavitor_host.bundle.errors import BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NAME = "signature"


def check(subject: Subject) -> Check:
    """Check both signatures under the given key; without a key, that there are none to check."""
    path = subject.artifact.path
    if subject.key is None:
        present = [file for suffix in (SIGNATURE, ENVELOPE) if is_there(file := beside(path, suffix))]
        if present:
            return Check(NAME, "FAIL", "", (Fault(present[0].name, "signed, but no --key to check it with"),))
        return skipped(NAME, "not signed")
    from clavitor_host.bundle.keys import key_id, read_public

    try:
        key = read_public(subject.key)
    except BundleError as error:
        return Check(NAME, "FAIL", "", (Fault(subject.key.name, str(error)),))
    what = f"checksum and provenance, Ed25519 key {key_id(key)[:16]}…"
    return checked(NAME, what, [*_over_checksum(subject, key), *_over_provenance(subject, key)])


def _over_checksum(subject: Subject, key: Ed25519PublicKey) -> Iterator[Fault]:
    path = subject.artifact.path
    try:
        checksum, signature = _read(subject, CHECKSUM), _read(subject, SIGNATURE)
    except BundleError as error:
        yield Fault(path.name, str(error))
        return
    if not _holds(key, signature, checksum):
        yield Fault(path.name + SIGNATURE, f"not made by this key over {path.name}{CHECKSUM}")
    if fault := checksum_fault(path, checksum, subject.digest):
        yield Fault(path.name, f"not the file that was signed: {fault}")


def _over_provenance(subject: Subject, key: Ed25519PublicKey) -> Iterator[Fault]:
    path = subject.artifact.path
    name = path.name + ENVELOPE
    try:
        envelope = dsse.from_bytes(_read(subject, ENVELOPE))
    except BundleError as error:
        yield Fault(path.name, str(error))
        return
    except ValueError as error:
        yield Fault(name, str(error))
        return
    signed = dsse.pae(envelope.payload_type, envelope.payload)
    if not any(_holds(key, each.sig, signed) for each in envelope.signatures):
        yield Fault(name, "not signed by this key")
    if envelope.payload_type != dsse.PAYLOAD_TYPE:
        yield Fault(name, f"its payload is {envelope.payload_type}, not {dsse.PAYLOAD_TYPE}")
    if fault := provenance_fault(path, envelope.payload, subject.digest):
        yield Fault(name, fault.replace(path.name + PROVENANCE, "its payload"))
    plain = beside(path, PROVENANCE)
    if is_there(plain) and read_file(plain) != envelope.payload:
        yield Fault(plain.name, "not the provenance that was signed")


def _read(subject: Subject, suffix: str) -> bytes:
    path = beside(subject.artifact.path, suffix)
    try:
        return read_file(path)
    except FileNotFoundError:
        raise BundleError(f"{path.name} is missing: it is not signed") from None


def _holds(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True
