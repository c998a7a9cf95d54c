"""The files the command reads and the one it writes."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from clavitor_license_minter.errors import MinterError

_SECRET_FORM: Final = re.compile(r"[0-9A-Za-z+/=.]{40,}")
"""What may be a key or a token."""
_SUFFIXES: Final = (".key", ".pem", ".tok", ".pub", ".txt", ".lic", ".license", ".der")

MAX_INPUT: Final = 64 * 1024
"""Bytes that are read of anything."""


def read_input(name: str, what: str) -> bytes:
    """Return the content of a file; `-` is standard input. Raises `MinterError`.

    what: what it is, for the message. That names the file too, unless it may be a secret in the wrong place.
    """
    shown = f"{what} {name}" if name != "-" and is_showable(name) else what
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_INPUT + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_INPUT + 1)
    except OSError as error:
        raise MinterError(f"cannot read {shown}: {error.strerror}") from None
    except ValueError:
        raise MinterError(f"cannot read {what}: that is no path") from None
    if len(data) > MAX_INPUT:
        raise MinterError(f"{shown} is longer than {MAX_INPUT} bytes")
    return data


def is_showable(name: str) -> bool:
    """Whether a name may be repeated: it is not a key, a token or a passphrase that was put in its place."""
    path = Path(name)
    if len(name) >= 256 or not name.isprintable():
        return False
    if _SECRET_FORM.fullmatch(name) and not ("/" in name and path.parent.is_dir()):
        return False
    return "/" in name or path.suffix in _SUFFIXES


def write_new(path: Path, text: str) -> None:
    """Write a file that nobody else can read, whole or not at all. Raises `MinterError` when it is there already.

    Its name is taken first, empty; then the whole file takes its place. So two commands never write the same one.
    """
    if not path.name:
        raise MinterError(f"--output: {path} is a folder: name a new file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise MinterError(f"{path} is there already; a license is never overwritten: give another --output") from None
    except (OSError, ValueError) as error:
        raise MinterError(f"cannot write {path}: {_why(error)}") from None
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MinterError(f"cannot write {path}: {_why(error)}") from None
        raise


def write_out(text: str) -> None:
    """Write a text to standard output, really. Raises `MinterError` when it did not get there."""
    if sys.stdout is None:
        raise MinterError("standard output is closed: nothing was written; give --output or open it")
    try:
        print(text, flush=True)
    except OSError as error:
        with suppress(OSError, ValueError):  # what waits in the buffer must not fail again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise MinterError(f"cannot write to standard output: {_why(error)}") from None


def say(line: str) -> None:
    """Write a line to standard error, if that can be written."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
