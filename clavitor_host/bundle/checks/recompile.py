"""Whether every compiled module is what its source compiles to: the importer takes the compiled one."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clavitor_host.bundle.archive import GENERATED, Artifact
from clavitor_host.bundle.background import Background
from clavitor_host.bundle.checks.members import Records, local_folders
from clavitor_host.bundle.checks.models import Check, Fault, checked, count, skipped

NAME = "recompiled"

_BYTES_A_SECOND = 50_000
"""Of source, that one processor compiles in a second at the least."""

Progress = Callable[[int, int], None]


class Recompilation:
    """The comparison, begun at once in other processes; only the exact Python that built it can tell.

    records: None to compile everything; else only what was built from the checkout, and the launcher.
    """

    def __init__(self, artifact: Artifact, records: Records | None = None) -> None:
        self.built = artifact.frozen.builder_python
        self.same = self.built == platform.python_version()
        names = set(artifact.names())
        every = sorted(name for name in names if name.endswith(".pyc") and name[:-1] in names)
        self.compiled = every if records is None else _ours(artifact, every, records)
        self.left = len(every) - len(self.compiled)
        sizes = {member.name: member.size for member in artifact.frozen.members}
        seconds = sum(sizes[name[:-1]] for name in self.compiled) // _BYTES_A_SECOND
        if self.same:
            self._job = Background(lambda: _different(artifact, self.compiled), seconds)

    def finish(self, progress: Progress) -> Check:
        """Wait for it, and return the check. progress: called with the modules compiled and all."""
        left = f"; {self.left} not compiled again: that takes --recompile" if self.left else ""
        if not self.same:
            everything = count(self.left + len(self.compiled), "compiled module")
            why = (
                f"built by Python {self.built}, and this is {platform.python_version()}: bytecode differs between them"
            )
            return skipped(NAME, f"{everything} not compiled again: {why}")
        values, died = self._job.finish(
            lambda value: progress(value, len(self.compiled)) if isinstance(value, int) else None
        )
        faults = [Fault(value, "not what its source compiles to") for value in values if isinstance(value, str)]
        if died:
            faults.append(Fault("compiling", died.removeprefix("BundleError: ")))
        return checked(
            NAME, f"{count(len(self.compiled), 'compiled module')} against a fresh compilation{left}", faults
        )


def _ours(artifact: Artifact, every: Sequence[str], records: Records) -> list[str]:
    local = local_folders(artifact)
    return [
        name
        for name in every
        if name[:-1] in GENERATED or records.owner(name) in local or name.startswith("clavitor_host/")
    ]


def _different(artifact: Artifact, compiled: Sequence[str]) -> Iterator[Any]:
    """Yield the number of modules done, and the name of each that differs."""
    from clavitor_host.bundle.compile import compiled_parts

    done = 0
    for part in compiled_parts([(name[:-1], artifact.data(name[:-1])) for name in compiled]):
        done += len(part)
        yield from (f"{name}c" for name, code in part if code != artifact.data(f"{name}c"))
        yield done
