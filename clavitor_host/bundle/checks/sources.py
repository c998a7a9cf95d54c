"""The sources: each in an encoding that can be read and searched, and each with its compiled form beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clavitor_host.bundle.archive import GENERATED, Artifact
from clavitor_host.bundle.checks.forbidden import PYTHON
from clavitor_host.bundle.checks.models import Check, Fault, checked, count

_CODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_READABLE = re.compile(r"utf-?8(-.*)?|(latin-?1|iso-?(8859-1|latin-1))(-.*)?|(us-)?ascii")


def check(artifact: Artifact) -> Check:
    """Check every `.py` member: what runs is what its text says to who reads it."""
    names = artifact.names()
    there = set(names)
    sources = [name for name in names if name.endswith(".py")]
    faults = [fault for name in sources for fault in _coding(name, artifact.data(name))]
    bare = [name for name in sources if f"{name}c" not in there and name not in GENERATED]
    if artifact.frozen.python == PYTHON:
        faults += _not_compiled(artifact, bare)
    what = f"{count(len(sources), 'source')} in UTF-8, Latin-1 or ASCII, each that is valid Python with its bytecode"
    return checked("sources", what, faults)


def coding(data: bytes) -> str:
    """Return the encoding that a source declares, "" for none; a byte order mark needs none."""
    head = data[:8192]
    for line in _LINE_END.split(head, 2)[:2]:
        if found := _CODING.match(line):
            return found[1].decode("latin-1")
    return ""


def _coding(name: str, data: bytes) -> Iterator[Fault]:
    declared = coding(data)
    if declared and not _READABLE.fullmatch(declared.lower().replace("_", "-")):
        yield Fault(name, f"its encoding is {declared}: UTF-8, Latin-1 or ASCII are read as they are written")


def _not_compiled(artifact: Artifact, bare: list[str]) -> Iterator[Fault]:
    """Yield what has no bytecode, and could have: a build leaves out only that of what is no valid Python."""
    from clavitor_host.bundle.compile import compile_all

    made = dict(compile_all([(name, artifact.data(name)) for name in bare], lambda done, total: None))
    return (Fault(name, f"without its bytecode {name}c") for name in bare if made[name] is not None)
