"""The folder a build works in: inside the one its artifact goes to, gone afterwards; what killed builds left, too."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from clavitor_host.bundle.errors import BundleError

PREFIX = ".building-"
_OURS = re.compile(re.escape(PREFIX) + "[a-z0-9_]{8}")
"""As `tempfile` names it."""


@contextmanager
def workplace(out_dir: Path) -> Iterator[Path]:
    """Give a folder in `out_dir`, which is made when it is missing; it is gone afterwards. Raises BundleError.

    Until then SIGTERM ends the program as Ctrl-C does, by way of SystemExit. For the main thread only.
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with _held(out_dir) as place:
            yield place
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt tidying up
    raise SystemExit(128 + number)


@contextmanager
def _held(out_dir: Path) -> Iterator[Path]:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _sweep(out_dir)
        place, lock = _make(out_dir)
    except OSError as error:
        raise BundleError(f"{out_dir} cannot be written: {error.strerror}") from None
    try:
        yield place
    except BundleError as error:  # that a file cannot be written is about the folder the user named
        raise BundleError(str(error).replace(f"{place}/", f"{out_dir}/")) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _make(out_dir: Path) -> tuple[Path, int]:
    """Make a folder and lock it, as long as this process lives; another build may sweep it up before it is locked."""
    while True:
        place = Path(tempfile.mkdtemp(dir=out_dir, prefix=PREFIX)).resolve()
        with suppress(FileNotFoundError):
            lock = _open(place)
            with suppress(OSError):  # a file system without locks: then nobody sweeps either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if place.exists():
                return place, lock
            os.close(lock)


def _sweep(out_dir: Path) -> None:
    """Remove what killed builds have left: folders of ours that no living process has locked."""
    for place in out_dir.iterdir():
        if _OURS.fullmatch(place.name):
            with suppress(OSError):
                lock = _open(place)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place)
                finally:
                    os.close(lock)


def _open(place: Path) -> int:
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
