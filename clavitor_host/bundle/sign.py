"""Signing an artifact: who holds the key says that this file, and how it was made, is theirs.

Two signatures by one Ed25519 key, both checkable with openssl alone:
`X.pyz.sha256.sig` are the 64 raw bytes over `X.pyz.sha256`; `X.pyz.intoto.dsse.json` is the provenance in a DSSE
envelope. Nothing is signed before it was checked: the artifact is whole, every compiled module is what its source
compiles to, and the files beside it are about it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clavitor_host.bundle import dsse
from clavitor_host.bundle.beside import (
    CHECKSUM,
    ENVELOPE,
    PROVENANCE,
    SIGNATURE,
    beside,
    checksum_fault,
    file_sha256,
    provenance_fault,
    read_file,
    write_all,
)
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.keys import PrivateKey, key_id, refuse_weak

if TYPE_CHECKING:
    from clavitor_host.bundle.archive import Artifact

Progress = Callable[[int, int], None]


class Signed(NamedTuple):
    """What was written. `digest`: sha256 (hex) of the artifact. `keyid`: sha256 (hex) of the public key in DER."""

    digest: str
    keyid: str
    signature: Path
    envelope: Path


def sign(
    artifact: Path,
    private: PrivateKey,
    private_path: Path,
    *,
    recompile: bool = True,
    progress: Progress = lambda done, total: None,
) -> Signed:
    """Sign `artifact` and its provenance. Raises BundleError, and then nothing was written.

    private_path: where the key came from, for messages. recompile: compile every module again and compare; only the
    exact Python that built the artifact can. progress: called with the modules compiled, and all.
    """
    digest = _checked(artifact, recompile, progress)
    checksum = _beside(artifact, CHECKSUM)
    provenance = _beside(artifact, PROVENANCE)
    fault = checksum_fault(artifact, checksum, digest) or provenance_fault(artifact, provenance, digest)
    if fault:
        raise BundleError(f"nothing was signed: {fault}; build it again")
    public = private.key.public_key()
    refuse_weak(private_path, public.public_bytes_raw())
    keyid = key_id(public)
    seal = private.key.sign(dsse.pae(dsse.PAYLOAD_TYPE, provenance))
    envelope = dsse.Envelope(dsse.PAYLOAD_TYPE, provenance, (dsse.Signature(keyid, seal),))
    signed = Signed(digest, keyid, beside(artifact, SIGNATURE), beside(artifact, ENVELOPE))
    write_all({signed.signature: private.key.sign(checksum), signed.envelope: dsse.to_bytes(envelope)})
    return signed


def _checked(artifact: Path, recompile: bool, progress: Progress) -> str:
    from clavitor_host.bundle.archive import structural_faults
    from clavitor_host.bundle.verify import opened

    before = file_sha256(artifact) if artifact.is_file() else ""
    with opened(artifact) as whole:
        for fault in structural_faults(whole):
            raise BundleError(f"nothing was signed: {artifact.name}: {fault}")
        if recompile:
            _recompiled(whole, progress)
    if file_sha256(artifact) != before:
        raise BundleError(f"nothing was signed: {artifact.name} changed while it was read")
    return before


def _recompiled(whole: Artifact, progress: Progress) -> None:
    """Refuse bytecode that is not its source's, from a poisoned cache say. Raises BundleError."""
    from clavitor_host.bundle.checks.recompile import Recompilation

    there = set(whole.names())
    for name in whole.names():
        if name.endswith(".pyc") and name[:-1] not in there:
            raise BundleError(f"nothing was signed: {whole.path.name}: {name}: bytecode without its source")
    recompilation = Recompilation(whole)
    if not recompilation.same:
        raise BundleError(
            f"nothing was signed: {whole.path.name} was built by Python {recompilation.built}, and this is "
            f"{platform.python_version()}, which cannot tell whether its bytecode is that of its sources; "
            "sign with that Python, or pass --no-recompile"
        )
    for fault in recompilation.finish(progress).faults:
        raise BundleError(f"nothing was signed: {whole.path.name}: {fault}")


def _beside(artifact: Path, suffix: str) -> bytes:
    path = beside(artifact, suffix)
    try:
        return read_file(path)
    except FileNotFoundError:
        raise BundleError(f"nothing was signed: there is no {path.name}; build it again") from None
