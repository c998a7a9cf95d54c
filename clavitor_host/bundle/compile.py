"""Bytecode: the same bytes from the same source under the same Python, whatever was compiled before or beside it.

`marshal` writes an object that only its container refers to in another way than one that is referred to elsewhere
too, and a text in another way when anything in the process has interned it. So every part of a code object is held
while it is written, and the texts that all modules share are interned beforehand.

Only the standard library is imported: the text is also run by itself, as the worker process that compiles a batch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

FORM = "1"
"""Of what this module writes: part of the key of the cache."""

_UNCHECKED_HASH = (1).to_bytes(4, "little")
_BATCHES = 4
"""Batches a process, so that none waits long for the slowest."""
_LEAST = 64
"""Members in a batch, where there are enough: a process takes as long to start as ten to compile."""

_CONTAINERS = (CodeType, tuple, frozenset)

Sources = Sequence[tuple[str, bytes]]
Compiled = list[tuple[str, bytes | None]]


def python_id() -> str:
    """Return what bytecode depends on beside the source: the exact Python."""
    return f"{sys.implementation.cache_tag}-{platform.python_version()}-{importlib.util.MAGIC_NUMBER.hex()}"


def compile_source(name: str, source: bytes) -> bytes | None:
    """Return the `.pyc` of a member, to be trusted without looking at its source; None when it is no valid Python."""
    for character in map(chr, range(256)):
        sys.intern(character)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, name, "exec", dont_inherit=True, optimize=0)
        held: list[Any] = [code]
        _hold(code, held)
        header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
        return header + marshal.dumps(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested beyond what Python takes
        return None


def compile_wheels(
    wheels: Iterable[tuple[str, Sources]], cache: Path, progress: Callable[[int, int], None]
) -> Compiled:
    """Return the `.pyc` of every member of every wheel: kept ones are read, the others compiled on all cores.

    wheels: the sha256 and the `.py` members of each. cache: a folder; what cannot be kept there is compiled next time.
    progress: called with the number of members compiled and of those to compile.
    """
    found: Compiled = []
    missing: dict[str, Sources] = {}
    for sha256, sources in wheels:
        kept = _read_kept(cache, sha256)
        if kept is None or kept.keys() != {name for name, _ in sources}:
            missing[sha256] = sources
        else:
            found.extend(kept.items())
    made = dict(compile_all([pair for sources in missing.values() for pair in sources], progress))
    for sha256, sources in missing.items():
        part = {name: made[name] for name, _ in sources}
        _keep(cache, sha256, part)
        found.extend(part.items())
    return found


def compile_all(sources: Sources, progress: Callable[[int, int], None]) -> Compiled:
    """Compile in as many processes as there are cores. Raises BundleError.

    progress: called with the number of members compiled and of all.
    """
    made: Compiled = []
    for part in compiled_parts(sources):
        made.extend(part)
        progress(len(made), len(sources))
    return made


def compiled_parts(sources: Sources) -> Iterator[Compiled]:
    """Compile in as many processes as there are cores, each starting from the same clean state; yield it in parts.

    Raises BundleError naming the member at which such a process ends.
    """
    cores = os.cpu_count() or 1
    batches: list[list[tuple[str, bytes]]] = [
        [] for _ in range(min(len(sources) // _LEAST + 1, cores * _BATCHES) if sources else 0)
    ]
    for index, pair in enumerate(sorted(sources, key=lambda pair: -len(pair[1]))):
        batches[index % len(batches)].append(pair)
    with ThreadPoolExecutor(cores) as pool:
        yield from pool.map(_in_process, batches)


def _in_process(batch: Sources) -> Compiled:
    worker = [sys.executable, "-I", "-S", "-B", "-c", _own_source()]
    done = subprocess.run(worker, input=marshal.dumps(list(batch)), capture_output=True, check=False)  # noqa: S603
    if done.returncode and len(batch) > 1:
        return [pair for each in batch for pair in _in_process([each])]
    if done.returncode:
        from clavitor_host.bundle.errors import BundleError

        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise BundleError(f"{batch[0][0]}: it cannot be compiled: the compiler ended with {how}")
    compiled: Compiled = marshal.loads(done.stdout)  # noqa: S302 - our own process wrote it
    return compiled


@cache
def _own_source() -> str:
    """Return this file's text: in an artifact there is no such file to run."""
    from importlib.resources import files

    return files("clavitor_host.bundle").joinpath("compile.py").read_text("utf-8")


def _hold(value: Any, held: list[Any]) -> None:
    """Put everything that marshal will write for a value into `held`: then nothing is referred to only once."""
    parts = _parts(value) if isinstance(value, CodeType) else value
    held.extend(parts)
    for part in parts:
        if isinstance(part, _CONTAINERS):
            _hold(part, held)


def _parts(code: CodeType) -> tuple[Any, ...]:
    return (
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_cellvars,
        code.co_freevars,
        code.co_filename,
        code.co_name,
        code.co_qualname,
        code.co_linetable,
        code.co_exceptiontable,
    )


def _file(cache: Path, sha256: str) -> Path:
    return cache / f"{python_id()}-{FORM}" / sha256


def _read_kept(cache: Path, sha256: str) -> Mapping[str, bytes | None] | None:
    """Return what is kept of a wheel when it is whole: it starts with its own sha256."""
    try:
        data = memoryview(_file(cache, sha256).read_bytes())
    except OSError:
        return None
    if len(data) < 32 or hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    kept: dict[str, bytes | None] = marshal.loads(data[32:])  # noqa: S302 - its digest is right
    return kept


def _keep(cache: Path, sha256: str, part: Mapping[str, bytes | None]) -> None:
    data = marshal.dumps(dict(part))
    file = _file(cache, sha256)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(hashlib.sha256(data).digest() + data)
            Path(beside).replace(file)
        except OSError:
            Path(beside).unlink(missing_ok=True)


if __name__ == "__main__":
    batch: Sources = marshal.loads(sys.stdin.buffer.read())  # noqa: S302 - from compile_all
    sys.stdout.buffer.write(marshal.dumps([(name, compile_source(name, source)) for name, source in batch]))
