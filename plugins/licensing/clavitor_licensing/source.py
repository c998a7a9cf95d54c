"""What the configuration says: the token that wins at every start, and the public keys."""

from __future__ import annotations

import asyncio
import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from clavitor_licensing.domain.canonical import MAX_TOKEN_SIZE
from clavitor_licensing.domain.info import LicenseRejected
from clavitor_licensing.domain.validator import LicenseValidator

if TYPE_CHECKING:
    from clavitor_licensing.config import LicensingConfig
    from clavitor_licensing.domain.schema import Payload

Source: TypeAlias = Literal["env", "file", "api", "command"]
"""Where a token came from: `CLAVITOR_LICENSE_TOKEN`, `CLAVITOR_LICENSE_FILE`, a request, a command."""

Setting: TypeAlias = Literal["env", "file"]
"""The sources that are read again at every start."""

_WHITE_SPACE: Final = str.maketrans("", "", " \t\n\r\v\f")


class Configured(NamedTuple):
    """A token that the configuration names, or why it cannot be read."""

    source: Setting
    token: str | LicenseRejected

    @property
    def digest(self) -> str:
        """What tells this token, or why it cannot be read, from another."""
        return digest(self.token if isinstance(self.token, str) else self.token.message)

    def __repr__(self) -> str:
        return f"Configured(source={self.source!r})"  # no token: this may end up in a message


class Keys(NamedTuple):
    """The public keys as they are now. problem: why there are none."""

    validator: LicenseValidator
    problem: LicenseRejected | None = None

    def judge(self, token: object, now: int) -> Payload | LicenseRejected:
        """Return what a token says, or why it is refused, whatever somebody gives. now: Unix seconds.

        The refusal comes without a traceback: its frames would hold the token.
        """
        try:
            return self.validator.parse(token if isinstance(token, str) else "", now)
        except LicenseRejected as error:
            if self.problem is not None and error.code == self.problem.code:
                return self.problem
            return LicenseRejected(error.code, error.message)


async def read_configured(config: LicensingConfig) -> Configured | None:
    """Return the token that the configuration names; the environment before the file (seed section 6.2)."""
    if config.token is not None:
        return Configured("env", normal(config.token.get_secret_value()))
    if config.token_file is not None:
        return Configured("file", await asyncio.to_thread(_read, config.token_file))
    return None


async def read_keys(config: LicensingConfig, tenant_id: str) -> Keys:
    """Return the public keys, their files read anew. Keys that cannot be used any more count as none."""
    if config.public_key is None:
        return Keys(LicenseValidator((), tenant_id))
    from clavitor_licensing.domain.keys import PublicKeyError, load_public_keys

    try:
        keys = await asyncio.to_thread(load_public_keys, config.public_key)
    except PublicKeyError as error:
        problem = LicenseRejected("no_public_key", f"License public key cannot be used any more: {error}")
        return Keys(LicenseValidator((), tenant_id), problem)
    return Keys(LicenseValidator(keys, tenant_id))


def normal(token: str) -> str:
    """Return a token without white space: a paste may wrap, and of one token there is one text."""
    return token.translate(_WHITE_SPACE) if len(token) <= MAX_TOKEN_SIZE else token


def digest(token: str) -> str:
    """Return what tells a token from another, and does not give it away."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> str | LicenseRejected:
    problem = ""
    try:
        # Not blocking: a pipe that nobody writes to must not hold up the start.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                problem = "it is not a file"
            data = b"" if problem else os.read(file, MAX_TOKEN_SIZE + 1)
        finally:
            os.close(file)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except ValueError:
        problem = "its name cannot be used"
    if not problem and len(data) > MAX_TOKEN_SIZE:
        problem = f"it is longer than {MAX_TOKEN_SIZE} bytes"
    if not problem and not data.strip():
        problem = "it is empty"
    if problem:
        shown = str(path) if len(str(path)) < 256 and str(path).isprintable() else "CLAVITOR_LICENSE_FILE"
        return LicenseRejected("malformed", f"License file {shown} cannot be read: {problem}")
    return normal(data.decode("ascii", "replace"))
