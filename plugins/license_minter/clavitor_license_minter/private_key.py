"""The vendor's private key: PEM of Ed25519, as `openssl genpkey -algorithm ed25519` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clavitor_license_minter.errors import MinterError
from clavitor_license_minter.files import read_input

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_EXPECTED: Final = "expected PEM of one Ed25519 private key, as `openssl genpkey -algorithm ed25519` writes it"


def load_private_key(path: str, passphrase_file: str | None) -> Ed25519PrivateKey:
    """Return the key of a file. passphrase_file: its first line opens an encrypted one. Raises `MinterError`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_input(path, "--private-key")
    if pem.count(b"-----BEGIN ") != 1 or b"PRIVATE KEY-----" not in pem:
        raise MinterError(f"--private-key: {_EXPECTED}")
    encrypted = b"ENCRYPTED" in pem
    if encrypted and passphrase_file is None:
        raise MinterError("--private-key is encrypted; give --passphrase-file")
    if not encrypted and passphrase_file is not None:
        raise MinterError("--private-key is not encrypted; leave out --passphrase-file")
    try:
        key = load_pem_private_key(pem, None if passphrase_file is None else _passphrase(passphrase_file))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        reason = "the passphrase does not open it, or it is damaged" if encrypted else _EXPECTED
        raise MinterError(f"--private-key: {reason}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise MinterError(f"--private-key: it is another kind of key; {_EXPECTED}")
    return key


def _passphrase(path: str) -> bytes:
    line = read_input(path, "--passphrase-file").split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise MinterError("--passphrase-file: its first line is empty")
    return line
