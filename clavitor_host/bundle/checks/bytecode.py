"""Looks for forbidden code inside bytecode.

`marshal` is not safe against bytes made to harm, so it reads them in a process of its own; a member at which that
process dies is named.
"""

from __future__ import annotations

import marshal
import mmap
from collections.abc import Callable, Iterator, Sequence
from importlib.util import MAGIC_NUMBER
from types import CodeType
from typing import Any, NamedTuple

from clavitor_host.bundle.background import Background
from clavitor_host.bundle.checks.models import Fault
from clavitor_host.bundle.checks.upstream import upstream
from clavitor_host.bundle.fingerprints import Bytecode, Constant, Fingerprints, functions_of, texts, walk

HEADER = 16
MOST_DEATHS = 3
"""After so many members that ended the process, the rest is not tried."""

BYTES_A_SECOND = 16 << 20
"""Of members, that are read in a second of processor time at the least."""

Read = Callable[[str], bytes]


class Traces(NamedTuple):
    """What of the fingerprints one member's bytecode holds; `broken`: why it could not be read, else ""."""

    member: str
    constants: list[str]
    names: list[str]
    sources: list[str]
    """The files whose functions it holds."""
    broken: str


def is_bytecode(data: bytes) -> bool:
    """Tell whether `data` begins as bytecode of any Python 3 does, whatever its name."""
    return len(data) >= HEADER and data[2:4] == b"\r\n" and 0x0B <= data[1] <= 0x0F


class BytecodeScan:
    """The scan, begun at once in another process; `finish` waits for it."""

    def __init__(self, names: Sequence[str], read: Read, size: int, prints: Fingerprints) -> None:
        """size: bytes of all members."""
        self._names = names
        self._read = read
        self._prints = prints
        self._at = mmap.mmap(-1, 8)
        self._seconds = size // BYTES_A_SECOND
        self._job = self._start(0)

    def finish(self) -> tuple[list[Traces], list[Fault], int]:
        """Return the traces found, the members that could not be read, and how many were bytecode."""
        traces: list[Traces] = []
        faults: list[Fault] = []
        seen = deaths = 0
        while True:
            values, died = self._job.finish()
            for value in values:
                if isinstance(value, int):
                    seen += value
                elif value[-1]:
                    faults.append(Fault(value[0], value[-1]))
                else:
                    traces.append(Traces(*value))
            if not died:
                return traces, faults, seen
            at = int.from_bytes(self._at[:8], "little")
            faults.append(Fault(self._names[at], f"its bytecode cannot be read safely: the reader was {died}"))
            deaths += 1
            if at + 1 < len(self._names) and deaths >= MOST_DEATHS:
                faults.append(Fault(self._names[at + 1], f"not read, nor what follows: {deaths} ended the reader"))
            if at + 1 >= len(self._names) or deaths >= MOST_DEATHS:
                return traces, faults, seen
            self._job = self._start(at + 1)

    def _start(self, first: int) -> Background:
        return Background(lambda: self._work(first), self._seconds)

    def _work(self, first: int) -> Iterator[Any]:
        seen = 0
        for index in range(first, len(self._names)):
            name = self._names[index]
            data = self._read(name)
            if not is_bytecode(data):
                if name.endswith(".pyc"):
                    yield Traces(name, [], [], [], "named as bytecode, and is none")
                continue
            seen += 1
            self._at[:8] = index.to_bytes(8, "little")
            found = _traces(name, data, self._prints)
            if found is not None:
                yield found
        yield seen


def _traces(name: str, data: bytes, prints: Fingerprints) -> Traces | None:
    if data[:4] != MAGIC_NUMBER:
        return Traces(name, [], [], [], "bytecode of another Python than the one that reads it")
    try:
        module = marshal.loads(memoryview(data)[HEADER:])  # noqa: S302 - in a process of its own, and never run
    except Exception as error:  # noqa: BLE001 - hostile bytes raise anything
        return Traces(name, [], [], [], f"no bytecode: {type(error).__name__}: {error}")
    if not isinstance(module, CodeType):
        return Traces(name, [], [], [], "bytecode that is no module")
    constants: set[Constant] = set()
    names: set[str] = set()
    functions: dict[Bytecode, str] = {}
    for code in walk(module):
        constants.update(texts(code))
        names.update(code.co_names)
        names.add(code.co_name)
        key = code.co_code, code.co_names
        if label := prints.bytecode.get(key):
            functions[key] = label
    source = name.removesuffix("c")
    allowed = prints.allowed.get(source)
    own = functions_of(allowed.read_bytes() if allowed else upstream(source)) if functions else set()  # that both have
    sources = {label for key, label in functions.items() if key not in own}
    found = prints.constants.keys() & constants
    known = prints.names.keys() & names
    if not (found or known or sources):
        return None
    shown = sorted(each if isinstance(each, str) else each.decode("latin-1") for each in found)
    return Traces(name, shown, sorted(known), sorted(sources), "")
