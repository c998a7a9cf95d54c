"""Ed25519 keys as openssl writes them, and only those.

The library that reads them is lenient: it takes the first of two keys in a file, keys of any kind, and public keys of
low order, under which anyone can forge. Here each of these is refused with one line that names the file.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clavitor_host.bundle.beside import open_regular
from clavitor_host.bundle.errors import BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LARGEST_KEY_FILE = 64 * 1024
"""Bytes: no key is near this."""

MAKE_ONE = "make one with: openssl genpkey -algorithm ed25519 -out private.pem"

_BEGIN = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----\s*$", re.MULTILINE)
_P = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_LOW_ORDER = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})
"""The y coordinates of the eight points whose order divides the cofactor (RFC 8032, section 5.1)."""


class PrivateKey(NamedTuple):
    """A key to sign with. `warning`: what is wrong with how it is kept, "" for nothing."""

    key: Ed25519PrivateKey
    warning: str


def read_private(path: Path, passphrase: Callable[[], bytes]) -> PrivateKey:
    """Read a private key in PEM. `passphrase` is called only when the key is encrypted. Raises BundleError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data, mode = _read(path)
    label = _only_label(path, data)
    if label.endswith(b"PUBLIC KEY") or label == b"CERTIFICATE":
        raise BundleError(f"{path}: this is a {label.decode().lower()}; signing takes the private key")
    encrypted = label == b"ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in data
    key = _load(path, data, passphrase() if encrypted else None)
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path}: {_kind(key)}, and signing takes an Ed25519 key; {MAKE_ONE}")
    others = stat.S_IMODE(mode) & 0o077
    warning = f"{path} is open to others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}" if others else ""
    return PrivateKey(key, warning)


def read_public(path: Path) -> Ed25519PublicKey:
    """Read a public key in PEM. Raises BundleError, also for one of low order."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data, _ = _read(path)
    label = _only_label(path, data)
    if label.endswith(b"PRIVATE KEY"):
        raise BundleError(
            f"{path}: this is a private key; checking takes the public one: openssl pkey -in {path} -pubout"
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BundleError(f"{path}: not a public key that can be read: {_one_line(error)}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{path}: {_kind(key)}, and bundles are signed with Ed25519")
    refuse_weak(path, key.public_bytes_raw())
    return key


def refuse_weak(path: Path, raw: bytes) -> None:
    """Raise BundleError when `raw` (32 bytes) is of low order or not the one form of its point."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P or y in _LOW_ORDER:
        raise BundleError(f"{path}: an Ed25519 key of low order: anyone can forge signatures under it")


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a key: sha256 (hex) of its DER SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with open_regular(path) as file:
            return file.read(LARGEST_KEY_FILE + 1), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def _only_label(path: Path, data: bytes) -> bytes:
    labels = [bytes(label) for label in _BEGIN.findall(data)]
    if not labels or len(data) > LARGEST_KEY_FILE:
        raise BundleError(f"{path}: not a key in PEM form; {MAKE_ONE}")
    if len(labels) > 1:
        raise BundleError(f"{path}: holds {len(labels)} PEM blocks, and which one is meant must be plain: leave one")
    return labels[0]


def _load(path: Path, data: bytes, passphrase: bytes | None) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "the passphrase is wrong" if passphrase is not None else f"not a private key: {_one_line(error)}"
        raise BundleError(f"{path}: {why}") from None


def _kind(key: object) -> str:
    name = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey").lstrip("_")
    return f"an {name} key" if name[:1] in "AEIORX" else f"a {name} key"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
