"""The launcher: proves that the artifact is, byte for byte, what was built, then runs the program from those bytes.

An artifact is one stored ZIP file, and every byte of it follows from its members: two lines of text, the members in
the order of their names, the central directory, an end record whose comment is the sha256 of the frozen manifest. The
frozen manifest holds size, CRC and sha256 of every other member, so the whole file can be rebuilt and compared.

Becomes `clavitor_launcher.py`; the builder and `verify` use its `layout` and `faults`. Standard library only.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself takes 5 ms to load
import gc
import json
import marshal
import os
import sys
from _thread import allocate_lock, start_new_thread
from binascii import crc32
from hashlib import sha256
from struct import Struct
from struct import error as StructError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from types import CodeType
    from typing import NoReturn

    Member = tuple[str, int, int, str]  # name, size, CRC-32, sha256 in hex
    Region = tuple[str, bytes, int, int, str]  # name, local header, its offset, size of the data, sha256 in hex

PREFIX = b"#!/usr/bin/env python3\n# coding: this-artifact-is-cut-short-or-damaged-or-needs-a-newer-python\n"
"""Runs the file; and what a Python says that sees no archive: before 3.8, or when the file's end is missing."""

MANIFEST = "clavitor_frozen.json"
LAUNCHER = "clavitor_launcher.py"
IMPORTER = "clavitor_importer.py"
RESOURCES = "clavitor_resources.py"
COMMENT = b"clavitor-manifest-sha256:"
AGAIN = "get the artifact again, and check its signature"
EXIT_REFUSED = 3

_ENTRY = Struct("<4s6H3L5H2L")
_SHARED = slice(6, 32)  # what an entry of the central directory and a local header have in common
_LOCAL_SIZE = 30
_END = Struct("<4s4H2LH")
_VERSION = 20
_DATE = 33  # 1980-01-01
_UNIX = 3 << 8
_MODE = 0o100644 << 16
_END_SIZE = _END.size + len(COMMENT) + 64
_CHUNK = 1 << 20


class ArtifactError(RuntimeError):
    """This file is not what was built, or cannot be run here; the message is one line that names the member.

    No ImportError and no OSError: code that can do without a module or a file must not carry on without this one.
    """


class Layout:
    """Where everything is in the file, and every byte that is not a member's data."""

    __slots__ = ("central", "end", "regions", "size", "start")

    def __init__(self, regions: list[Region], central: list[bytes], end: bytes, start: int) -> None:
        self.regions = regions
        self.central = central
        self.end = end
        self.start = start
        """Offset of the central directory."""
        self.size = start + sum(map(len, central)) + len(end)


def layout(members: Iterable[Member], manifest: bytes) -> Layout:
    """Return the one layout of a file with these members and the frozen manifest's bytes."""
    digest = sha256(manifest).hexdigest()
    regions: list[Region] = []
    central: list[bytes] = []
    at, by, pack = len(PREFIX), _UNIX | _VERSION, _ENTRY.pack
    for name, size, crc, digest_ in sorted([*members, (MANIFEST, len(manifest), crc32(manifest), digest)]):
        raw = name.encode("ascii")
        entry = pack(b"PK\1\2", by, _VERSION, 0, 0, 0, _DATE, crc, size, size, len(raw), 0, 0, 0, 0, _MODE, at)
        header = b"PK\3\4" + entry[_SHARED] + raw
        regions.append((name, header, at, size, digest_))
        central.append(entry + raw)
        at += len(header) + size
    count, size = len(central), sum(map(len, central))
    comment = COMMENT + digest.encode("ascii")
    end = _END.pack(b"PK\5\6", 0, 0, count, count, size, at, len(comment)) + comment
    return Layout(regions, central, end, at)


def read(fd: int, size: int, offset: int) -> bytes:
    """Return `size` bytes at `offset`, less at the end of the file."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data


def read_central(fd: int) -> tuple[bytes, bytes]:
    """Return the central directory and the end record as they are in the file. Raises `ArtifactError`."""
    size = os.fstat(fd).st_size
    end = read(fd, _END_SIZE, max(size - _END_SIZE, 0))
    if len(end) < _END_SIZE or end[:4] != b"PK\5\6" or end[_END.size : -64] != COMMENT:
        raise ArtifactError(f"end record: not what was frozen, the file was re-packed or changed; {AGAIN}")
    *_, length, start, _ = _END.unpack_from(end)
    return read(fd, min(length, size), start), end


def entries(central: bytes) -> dict[str, tuple[int, int]]:
    """Return name, offset of the local header, and size, of what a central directory lists."""
    found: dict[str, tuple[int, int]] = {}
    at = 0
    while central[at : at + 4] == b"PK\1\2" and len(central) >= at + _ENTRY.size:
        *_, size, name, extra, comment, _, _, _, offset = _ENTRY.unpack_from(central, at)
        start = at + _ENTRY.size
        found[central[start : start + name].decode("ascii", "backslashreplace")] = offset, size
        at = start + name + extra + comment
    return found


def read_manifest(fd: int) -> bytes:
    """Return the frozen manifest's bytes. Raises `ArtifactError` when they are not what the end record says."""
    central, end = read_central(fd)
    at = central.find(MANIFEST.encode("ascii")) - _ENTRY.size  # looked for: there are thousands of entries
    offset, size = entries(central[max(at, 0) : at + _ENTRY.size + len(MANIFEST)]).get(MANIFEST, (0, 0))
    manifest = read(fd, min(size, os.fstat(fd).st_size), offset + _LOCAL_SIZE + len(MANIFEST))
    if sha256(manifest).hexdigest().encode("ascii") != end[-64:]:
        raise ArtifactError(f"{MANIFEST}: not what the end record says was frozen; {AGAIN}")
    return manifest


def plan(manifest: bytes) -> Layout:
    """Return the layout that a frozen manifest stands for. Raises `ArtifactError`."""
    try:
        return layout(map(tuple, json.loads(manifest)["members"]), manifest)
    except (ValueError, TypeError, KeyError, ArithmeticError, RuntimeError, StructError) as error:
        raise ArtifactError(f"{MANIFEST}: cannot be read ({type(error).__name__}); {AGAIN}") from None


def faults(fd: int, plan: Layout, *, threads: int = 2, known: Container[str] = ()) -> list[str]:
    """Return what differs from the plan, in the order of the file: each one line that begins with the member's name.

    known: members whose data was compared already, or is by now: of them only what is around it is compared.
    """
    found: list[tuple[int, str]] = []
    if read(fd, len(PREFIX), 0) != PREFIX:
        found.append((0, "its first two lines: not what was frozen"))
    for part in _in_parallel(fd, plan, threads, known):
        found += part
    expected = b"".join(plan.central)
    if read(fd, len(expected), plan.start) != expected:
        found += _central_faults(fd, plan)
    if read(fd, len(plan.end) + 1, plan.start + len(expected)) != plan.end:
        found.append((plan.size, "end record: not what was frozen, or not at the end of the file"))
    return [line for _, line in sorted(found)]


def _central_faults(fd: int, plan: Layout) -> list[tuple[int, str]]:
    """Say which members are missing and which are new, first of all; else which entries differ."""
    listed, frozen = entries(read_central(fd)[0]), [name for name, *_ in plan.regions]
    found = [(-2, f"{name}: missing") for name in frozen if name not in listed]
    found += [(-1, f"{name}: not among what was frozen") for name in sorted(listed.keys() - set(frozen))]
    where = plan.start
    for name, entry in zip(frozen, plan.central, strict=True):
        if read(fd, len(entry), where) != entry:
            found.append((where, f"{name}: its entry in the central directory is not what was frozen"))
        where += len(entry)
    return found


def _in_parallel(fd: int, plan: Layout, threads: int, known: Container[str]) -> list[list[tuple[int, str]]]:
    """Check the regions in parts of about equal size, one of them in this thread; OpenSSL hashes without the GIL."""
    each = plan.start // max(min(threads, len(os.sched_getaffinity(0))), 1) + 1
    parts: list[list[Region]] = []
    for region in plan.regions:
        if not parts or region[2] >= each * len(parts):
            parts.append([])
        parts[-1].append(region)
    results: list[list[tuple[int, str]]] = [[] for _ in parts]
    errors: list[OSError] = []

    def work(index: int) -> None:
        try:
            results[index] = _check(fd, parts[index], known)
        except OSError as error:
            errors.append(error)

    def work_and_tell(index: int) -> None:
        try:
            work(index)
        finally:
            done[index].release()

    done = [allocate_lock() for _ in parts]
    for index in range(1, len(parts)):
        done[index].acquire()
        start_new_thread(work_and_tell, (index,))
    work(0)
    for lock in done[1:]:
        lock.acquire()
    if errors:
        raise errors[0]
    return results


def _check(fd: int, regions: Sequence[Region], known: Container[str]) -> list[tuple[int, str]]:
    """Compare the headers and hash the data of regions that follow each other; extension modules last, they are large,
    and somebody else may know them by then."""
    found: list[tuple[int, str]] = []
    _, header, at, size, _ = regions[-1]
    chunk = bytearray(min(_CHUNK, at + len(header) + size - regions[0][2]))  # one for all: each costs its page faults
    view = memoryview(chunk)
    start = end = 0
    for name, header, at, size, digest in sorted(regions, key=_is_extension):
        if name in known:
            if read(fd, len(header), at) != header:
                found.append((at, f"{name}: its ZIP header is not what was frozen"))
            continue
        data, stop = at + len(header), at + len(header) + size
        if at < start or stop > end:
            start, end = at, at + os.preadv(fd, [view], at)
        if not chunk.startswith(header, at - start, end - start):
            found.append((at, f"{name}: its ZIP header is not what was frozen"))
        hashed = sha256(view[data - start : min(stop, end) - start])
        position = end
        while position < stop:
            count = os.preadv(fd, [view[: stop - position]], position)
            if not count:
                break
            hashed.update(view[:count])
            position += count
            start = end = 0
        if hashed.hexdigest() != digest:
            found.append((data, f"{name}: not what was frozen"))
    return found


def _is_extension(region: Region) -> bool:
    return region[0].endswith(".so")


class Store:
    """The members of a checked artifact. Whatever is read is hashed again: it is what was frozen, or nothing."""

    __slots__ = ("fd", "known", "path", "table")

    def __init__(self, path: str, fd: int, plan: Layout) -> None:
        self.path = path
        self.fd = fd
        self.table = {name: (at + len(header), size, digest) for name, header, at, size, digest in plan.regions}
        """Name: offset, size, sha256 in hex."""
        self.known: set[str] = set()
        """Members that were read, and so compared."""

    def read(self, name: str) -> bytes:
        """Return a member's bytes. Raises KeyError for a name that is none, `ArtifactError` for changed bytes."""
        offset, size, digest = self.table[name]
        data = read(self.fd, size, offset)
        if sha256(data).hexdigest() != digest:
            raise ArtifactError(f"{name}: not what was frozen, the file was changed while it ran; {AGAIN}")
        self.known.add(name)
        return data


def begin(path: str) -> tuple[Store, Checking]:
    """Open the artifact, and begin to compare every byte of it. Raises `ArtifactError`, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        built = plan(read_manifest(fd))
    except BaseException:
        os.close(fd)
        raise
    store = Store(path, fd, built)
    return store, Checking(store, built)


AHEAD = ("clavitor_host.cli.main", "clavitor_host.config.sources", "clavitor_host.api")
"""What `serve` needs in each of its processes."""


def run(path: str) -> NoReturn:
    """Check the artifact, make it the place modules come from, run the program, and end."""
    gc.disable()  # neither checking nor loading makes garbage
    try:
        store, checking = begin(path)
        _install(store)
        if sys.argv[1:2] == ["serve"]:
            _load_ahead()
        checking.finish()
    except (ArtifactError, OSError) as error:
        refuse(path, str(error))
    gc.enable()
    if _signal.getsignal(_signal.SIGINT) is _signal.SIG_DFL:  # by stage 1
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    from clavitor_host.__main__ import main

    try:
        main()
    except ArtifactError as error:
        refuse(path, str(error))
    sys.exit()


def _load_ahead() -> None:
    """Load a server's modules while the file is being hashed: each is compared by itself before it is loaded, and they
    do nothing until the program begins. What cannot be loaded is the program's to report."""
    for name in AHEAD:
        try:
            __import__(name)
        except ArtifactError:
            raise
        except Exception:  # noqa: BLE001
            return


class Checking:
    """The comparison of every byte, in threads of its own. What the store has read meanwhile it need not read again."""

    def __init__(self, store: Store, plan: Layout) -> None:
        self._running = allocate_lock()
        self._running.acquire()
        self._found: list[str] = []
        start_new_thread(self._compare, (store, plan))

    def _compare(self, store: Store, plan: Layout) -> None:
        try:
            self._found = faults(store.fd, plan, known=store.known)
        except Exception as error:  # noqa: BLE001 - told by `finish`
            self._found = [f"cannot be read: {error}"]
        finally:
            self._running.release()

    def finish(self) -> None:
        """Wait for the end of it. Raises `ArtifactError` naming the first member that differs."""
        with self._running:
            for line in self._found:
                raise ArtifactError(f"{line}; {AGAIN}")


def refuse(path: str, reason: str) -> NoReturn:
    """Say why this does not run, in one line, and end."""
    if sys.stderr is not None:
        print(f"error: {path.rpartition('/')[2]}: {reason}", file=sys.stderr)
    sys.exit(EXIT_REFUSED)


def _install(store: Store) -> None:
    """Put our importer in the place of the one that Python started this file with."""
    code: CodeType
    if IMPORTER + "c" in store.table:
        code = marshal.loads(store.read(IMPORTER + "c")[16:])  # noqa: S302 - hashed
    else:
        code = compile(store.read(IMPORTER), f"{store.path}/{IMPORTER}", "exec")
    module = type(sys)(IMPORTER.removesuffix(".py"))
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)  # noqa: S102 - hashed
    module.install(store)
