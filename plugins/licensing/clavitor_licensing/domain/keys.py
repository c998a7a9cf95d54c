"""Public keys from `CLAVITOR_LICENSE_PUBLIC_KEY` (spec section 2): strict, a wrong key verifies wrongly.

A key is PEM, or base64 of DER SubjectPublicKeyInfo, or the path of a file with either; commas stand between several.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from clavitor_licensing.domain.canonical import decode_base64
from clavitor_licensing.domain.curve import point_problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_KEY_FILE: Final = 64 * 1024
"""Bytes of the longest key file that is read."""

_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
"""SubjectPublicKeyInfo of Ed25519 up to the 32 bytes of the point; DER writes it one way (RFC 8410, section 4)."""
_SEQUENCE: Final = b"\x30"
"""How DER begins. In base64 that is an M."""
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----([^-]*)-----END \1-----")
_SECRET_FORM = re.compile(r"[0-9A-Za-z+/_=-]{40,}")
_NAMES: Final = {"RSA": "an RSA key", "EC": "an EC key", "X25519": "an X25519 key", "X448": "an X448 key"}
_OTHER: Final = "it is not the SubjectPublicKeyInfo of an Ed25519 key"
_PRIVATE: Final = "it is a private key, which belongs on the machine that signs; give the public half"


class PublicKeyError(ValueError):
    """A key that cannot be used. The message says which one and why, and repeats no key."""


class PublicKey(NamedTuple):
    """One key that may have signed. raw: its 32 bytes. where: the file, or the place in the list."""

    raw: bytes
    where: str
    key: Ed25519PublicKey

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of its DER form, in hexadecimal, as `openssl pkey -pubin -outform DER | sha256sum` gives it."""
        from hashlib import sha256

        return sha256(_PREFIX + self.raw).hexdigest()

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made the signature over the data."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


def load_public_keys(text: str) -> tuple[PublicKey, ...]:
    """Return the keys of a setting, in its order, each once. Raises `PublicKeyError`. Reads the files that it names."""
    keys: dict[bytes, PublicKey] = {}
    for number, entry in enumerate(text.split(","), 1):
        key = _load(entry.strip(), number)
        keys.setdefault(key.raw, key)
    return tuple(keys.values())


def relative_to(text: str, folder: Path) -> str:
    """Return a setting with its relative paths counted from a folder; the keys in it stay as they are."""
    return ",".join(_located(entry.strip(), folder) for entry in text.split(","))


def _located(entry: str, folder: Path) -> str:
    if not entry or not entry.isprintable() or len(entry) >= 256 or _is_key(entry):
        return entry
    path = folder / Path(entry).expanduser()
    return entry if _SECRET_FORM.fullmatch(entry) and not path.exists() else str(path)


def _load(entry: str, number: int) -> PublicKey:
    where = f"license public key {number}"
    if not entry:
        raise PublicKeyError(f"{where}: it is empty")
    try:
        if not _is_key(entry):
            where += _shown(entry)
            entry = _read(entry)
        return _public_key(_der(entry), where)
    except _Unusable as error:
        raise PublicKeyError(f"{where}: {error}") from None


class _Unusable(Exception):
    """Why a key cannot be used."""


def _is_key(entry: str) -> bool:
    if "-----" in entry:
        return True
    data = _base64(entry)
    if data is None:
        return False
    return data[:1] == _SEQUENCE or (_may_be_secret(entry) and (entry.endswith("=") or not entry.startswith("/")))


def _shown(path: str) -> str:
    return f" ({path})" if len(path) < 256 and path.isprintable() and not _may_be_secret(path) else ""


def _may_be_secret(entry: str) -> bool:
    """Whether it is no path but perhaps a bare key that was put in the wrong place: it is not repeated."""
    return _SECRET_FORM.fullmatch(entry) is not None and not (len(entry) < 256 and Path(entry).exists())


def _read(path: str) -> str:
    try:
        # Not blocking: a pipe that nobody writes to must not hold up the start.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise _Unusable("it is not a file")
            data = os.read(file, MAX_KEY_FILE + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise _Unusable(f"it is neither PEM nor base64 of DER, and as a file: {error.strerror}") from None
    except ValueError:
        raise _Unusable("it is neither PEM nor base64 of DER nor a path") from None
    if len(data) > MAX_KEY_FILE:
        raise _Unusable(f"the file is longer than {MAX_KEY_FILE} bytes")
    if not data.strip():
        raise _Unusable("the file is empty")
    if not data.isascii() or b"\0" in data:
        raise _Unusable("the file is binary; expected PEM, or base64 of a DER SubjectPublicKeyInfo")
    return data.decode("ascii").strip()


def _der(entry: str) -> bytes:
    if "PRIVATE KEY" in entry:
        raise _Unusable(_PRIVATE)
    if "-----" not in entry:
        data = _base64(entry)
        if data is None:
            raise _Unusable("it is neither PEM nor base64 of DER (padded, and one key)")
        return data
    if entry.count("-----BEGIN ") > 1:
        raise _Unusable("it holds more than one PEM block; give the keys one by one, with commas between them")
    block = _BLOCK.fullmatch(entry)
    if block is None:
        raise _Unusable("it is not one whole PEM block with nothing around it")
    if block[1] != "PUBLIC KEY":
        what = "a certificate" if "CERTIFICATE" in block[1] else f"PEM of a thing called {block[1]}"
        raise _Unusable(f"it is {what}; expected an Ed25519 public key, -----BEGIN PUBLIC KEY-----")
    data = _base64(block[2])
    if data is None:
        raise _Unusable("its PEM block is not base64 of one key")
    return data


def _public_key(der: bytes, where: str) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = der[len(_PREFIX) :]
    if not der.startswith(_PREFIX):
        raise _Unusable(_what_it_is(der))
    if len(raw) < 32:
        raise _Unusable("the key is cut short")
    if len(raw) > 32:
        raise _Unusable("something follows the key; give keys one by one, with commas between them")
    problem = point_problem(raw)
    if problem:
        raise _Unusable(problem)
    return PublicKey(raw, where, Ed25519PublicKey.from_public_bytes(raw))


def _what_it_is(der: bytes) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

    if len(der) == 32:
        return "it is 32 bytes without the DER around them; expected a SubjectPublicKeyInfo"
    try:
        kind = type(load_der_public_key(der)).__name__
        return next((f"it is {what}, not Ed25519" for name, what in _NAMES.items() if kind.startswith(name)), _OTHER)
    except (ValueError, UnsupportedAlgorithm):
        pass
    try:
        load_der_private_key(der, None)
    except TypeError:  # encrypted
        return _PRIVATE
    except (ValueError, UnsupportedAlgorithm):
        return _OTHER
    return _PRIVATE


def _base64(text: str) -> bytes | None:
    return decode_base64(b"".join(text.encode("ascii").split())) if text.isascii() else None
