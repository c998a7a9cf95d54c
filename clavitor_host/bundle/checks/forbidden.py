"""Proves that what the manifest forbids is absent: by name, by text, and by content under any name."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clavitor_host.bundle.archive import Artifact
from clavitor_host.bundle.background import Background
from clavitor_host.bundle.checks.bytecode import BYTES_A_SECOND, BytecodeScan, Traces
from clavitor_host.bundle.checks.models import Check, Fault, checked, count, skipped
from clavitor_host.bundle.checks.upstream import upstream
from clavitor_host.bundle.fingerprints import CERTAIN, Fingerprints
from clavitor_host.terminal import printable

Read = Callable[[str], bytes]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SHOWN = 60


class Rule(NamedTuple):
    """One forbidden distribution in the forms its name takes. `start`: every match begins so."""

    glob: str
    start: bytes
    pattern: re.Pattern[bytes]


def rule(glob: str) -> Rule:
    """Return what finds a distribution's name, or its package's, in lower-case bytes.

    A name matches whole unless the glob ends in `*`; `-`, `_` and `.` are the same.
    """
    start = re.split(r"[^a-z0-9]", glob.lower(), maxsplit=1)[0]
    parts = (
        "[-_.]" if char in "-_." else "[a-z0-9_-]*" if char == "*" else "[a-z0-9_-]" if char == "?" else re.escape(char)
        for char in glob.lower()
    )
    end = "" if glob.endswith("*") else "(?![a-z0-9]|[-_][a-z0-9])"
    return Rule(glob, start.encode(), re.compile("".join(parts).encode() + end.encode()))


class Search:
    """The search through every byte, begun at once in other processes; the checks wait for them.

    strings: texts to look for, without regard to case. globs: forbidden distributions.
    """

    def __init__(self, artifact: Artifact, strings: Sequence[str], globs: Sequence[str], prints: Fingerprints) -> None:
        names, read = artifact.names(), artifact.data
        self.names = names
        self.python = artifact.frozen.python
        self.strings = strings
        self.rules = [rule(glob) for glob in globs]
        self.prints = prints
        size = sum(member.size for member in artifact.frozen.members)
        self._bytecode = BytecodeScan(names, read, size, prints) if self.python == PYTHON else None
        self._texts = Background(
            lambda: _texts(names, read, strings, self.rules, prints.lines.keys()), size // BYTES_A_SECOND
        )

    def finish(self, digests: Mapping[str, str], missing: Sequence[str]) -> list[Check]:
        """Return the checks. `missing`: globs that no source folder in the checkout fits."""
        found, died = self._texts.finish()
        traces, broken, modules = self._bytecode.finish() if self._bytecode else ([], [], 0)
        crashed = [Fault("search", f"it was {died}")] if died else []
        hits = [Fault(name, what) for kind, name, what in found if kind == "text"]
        size = next((value for kind, _, value in found if kind == "bytes"), 0)
        searched = f"the names and {size:,} bytes of {count(len(self.names), 'member')}"
        rules, texts = count(len(self.rules), "distribution"), count(len(self.strings), "text")
        named = f"{rules} and {texts} looked for in {searched}"
        checks = [checked("forbidden", named, [*crashed, *hits])]
        if self._bytecode is None:
            checks.append(skipped("bytecode", f"it is of Python {self.python}, and this is {PYTHON}"))
        else:
            checks.append(checked("bytecode", f"{count(modules, 'compiled module')} read without running them", broken))
        folders = (glob.removeprefix("clavitor-").replace("-", "_") for glob in missing)
        absent = [f"plugins/{folder} not in this checkout" for folder in folders]
        if not any(self.prints[:-1]):
            return [*checks, skipped("content", "; ".join(absent) or "nothing is forbidden")]
        lines = {name: what for kind, name, what in found if kind == "lines"}
        faults = [
            *_by_digest(digests, self.prints),
            *_by_line(lines, self.prints),
            *_by_trace(traces, self.prints),
        ]
        note = f"; skipped: {', '.join(absent)}" if absent else ""
        checks.append(checked("content", f"{self.prints.describe()} of forbidden sources looked for{note}", faults))
        return checks


def _texts(
    names: Sequence[str], read: Read, strings: Sequence[str], rules: Sequence[Rule], lines: Any
) -> Iterator[tuple[str, str, Any]]:
    needles = {text: text.lower().encode() for text in strings}
    starts = {each.start for each in rules}
    total = 0
    for name in names:
        data = read(name)
        total += len(data)
        views = [("its name", name.encode()), ("it", data)]
        dense = data.translate(None, b"\0") if b"\0" in data else data  # of text with two or four bytes a letter
        if dense is not data:
            views.append(("without its zero bytes it", dense))
        hits = _lines_in(dense, lines, escaped=dense is data) if lines else set()  # removing zero bytes loses no line
        if data[:2] in _UTF16:
            text = data.decode("utf-16", "replace").encode("utf-8", "replace")
            views.append(("as UTF-16 it", text))
            hits |= _lines_in(text, lines) if lines else set()
        told: set[str] = set()
        for place, view in views:
            lowered = view.lower()
            for wanted, needle in needles.items():
                if needle in lowered and wanted not in told:
                    told |= {wanted} if view is not views[0][1] else set()
                    yield "text", name, f"{place} holds the forbidden text {wanted!r} ({_around(lowered, needle)})"
            present = {start for start in starts if start in lowered}
            for each in rules:
                if each.start in present and each.glob not in told and (match := each.pattern.search(lowered)):
                    told |= {each.glob} if view is not views[0][1] else set()
                    found = match[0].decode("latin-1")
                    yield "text", name, f"{place} names {found}, which {each.glob} forbids"
        if hits:
            yield "lines", name, sorted(line.decode("latin-1") for line in hits)
    yield "bytes", "", total


def _lines_in(data: bytes, lines: Any, *, escaped: bool = True) -> set[bytes]:
    """Return which of the lines are in it. escaped: also as they stand in a text constant."""
    hits: set[bytes] = lines & map(bytes.strip, data.split(b"\n"))
    if escaped and b"\\n" in data:
        hits |= lines & map(bytes.strip, data.replace(b'\\"', b'"').replace(b"\\'", b"'").split(b"\\n"))
    return hits


def _around(data: bytes, needle: bytes) -> str:
    at = data.find(needle)
    near = data[max(at - 12, 0) : at + len(needle) + 12].decode("latin-1")
    return f"at byte {at}: …{printable(near)}…"


def _by_digest(digests: Mapping[str, str], prints: Fingerprints) -> Iterator[Fault]:
    for name, digest in digests.items():
        if digest in prints.files:
            yield Fault(name, f"it is {prints.files[digest]}")


def _by_line(lines: Mapping[str, list[str]], prints: Fingerprints) -> Iterator[Fault]:
    for name, hits in lines.items():
        own = upstream(name)
        found = [line for line in hits if line.encode("latin-1") not in own]
        if not found:
            continue
        longest = max(found, key=len)
        if len(longest) >= CERTAIN or len(found) >= 2:
            source = prints.lines[longest.encode("latin-1")]
            what = f"{count(len(found), 'line')} of {source}"
            yield Fault(name, f"it holds {what}, such as {printable(longest[:_SHOWN])!r}")


def _by_trace(traces: Sequence[Traces], prints: Fingerprints) -> Iterator[Fault]:
    packages: dict[str, set[str]] = defaultdict(set)
    for trace in traces:
        for name in trace.names:
            packages[name].add(trace.member.partition("/")[0])
    for trace in traces:
        if trace.sources:
            yield Fault(trace.member, f"it holds compiled functions of {', '.join(trace.sources)}")
        own_text = upstream(trace.member.removesuffix("c")) if trace.constants else b""
        constants = [each for each in trace.constants if each.encode("utf-8", "replace") not in own_text]
        if any(len(each) >= CERTAIN for each in constants) or len(constants) >= 2:
            longest = max(constants, key=len)
            source = prints.constants.get(longest) or prints.constants.get(longest.encode("latin-1", "replace"), "")
            shown = printable(" ".join(longest.split())[:_SHOWN])
            what = count(len(constants), "constant")
            yield Fault(trace.member, f"it holds {what} of {source}, such as {shown!r}")
        own = [name for name in trace.names if len(packages[name]) == 1]
        if len(own) >= 3:
            sources = sorted({prints.names[name] for name in own})
            yield Fault(trace.member, f"it uses the names {', '.join(own[:3])} of {', '.join(sources)}")
