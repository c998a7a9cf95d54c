"""Passwords: argon2id (RFC 9106), with the parameters of OWASP's password storage guide."""

from __future__ import annotations

import asyncio
import re
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clavitor_host.errors import StorageUnavailable, invalid_field

MIN_PASSWORD = 12
"""Shortest password, in characters."""
MAX_PASSWORD = 1024
"""Longest password, in UTF-8 bytes."""

MEMORY_KIB = 19 * 1024
ITERATIONS = 2
LANES = 1

THREADS = 2
"""Passwords that are hashed at the same time: they cost 19 MiB and a core each."""
MAX_WAITING = 100
"""Passwords that may wait for a thread; beyond it a login is answered 503."""

_PHC = re.compile(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_NOBODY = f"$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p={LANES}${'A' * 22}${'A' * 43}"
"""The hash that a password is checked against when there is none: it costs the same and never fits."""

_T = TypeVar("_T")


def check_password(password: str, field: str = "password") -> None:
    """Raise a 400 that names `field` unless a password may be set: 12 characters at least, 1024 bytes at most."""
    try:
        fits = len(password) >= MIN_PASSWORD and len(_bytes(password)) <= MAX_PASSWORD
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise invalid_field(field, f"at least {MIN_PASSWORD} characters and at most {MAX_PASSWORD} bytes of UTF-8")


def needs_rehash(phc: str) -> bool:
    """Return whether a stored hash was made with less than today's parameters."""
    match = _PHC.fullmatch(phc)
    if match is None:
        return True
    memory, iterations, _ = map(int, match.groups())
    return memory < MEMORY_KIB or iterations < ITERATIONS


class PasswordHasher:
    """Hashes and checks passwords off the event loop, a bounded number at a time. One per app."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Return a new hash (PHC string) of a password that `check_password` accepted."""
        return await self._run(lambda: _hash(_bytes(password)))

    async def verify(self, password: str, phc: str | None) -> bool:
        """Return whether a password fits a stored hash. `phc` None: it takes the same time and does not fit."""
        given = _lenient_bytes(password)
        fits = await self._run(lambda: _verify(given, phc or _NOBODY))
        return fits and phc is not None

    async def _run(self, function: Callable[[], _T]) -> _T:
        if self._waiting >= MAX_WAITING:
            raise StorageUnavailable("Too many logins at once; try again shortly.", code="overloaded")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="password")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, function)
        future.add_done_callback(self._done)
        return await future

    def _done(self, _future: object) -> None:
        self._waiting -= 1


def _bytes(password: str) -> bytes:
    return unicodedata.normalize("NFC", password).encode()


def _lenient_bytes(password: str) -> bytes:
    """Return the bytes of any text; what could never have been set never fits."""
    data = unicodedata.normalize("NFC", password[: MAX_PASSWORD + 1]).encode("utf-8", "surrogatepass")
    return data[: MAX_PASSWORD + 1]


def _hash(password: bytes) -> str:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(salt=secrets.token_bytes(16), length=32, iterations=ITERATIONS, lanes=LANES, memory_cost=MEMORY_KIB)
    return kdf.derive_phc_encoded(password)


def _verify(password: bytes, phc: str) -> bool:
    from cryptography.exceptions import InvalidKey
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        Argon2id.verify_phc_encoded(password, phc)
    except InvalidKey:
        return False
    return True
