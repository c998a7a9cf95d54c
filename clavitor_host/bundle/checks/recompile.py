"""Whether every compiled module is what its source compiles to."""

from __future__ import annotations

import platform
from collections.abc import Callable

from clavitor_host.bundle.archive import Artifact
from clavitor_host.bundle.checks.models import Check, Fault, checked, count, skipped

NAME = "recompiled"


def check(artifact: Artifact, progress: Callable[[int, int], None]) -> Check:
    """Compile every source again and compare; only the exact Python that built it can tell."""
    from clavitor_host.bundle.compile import compile_all

    built, ours = artifact.frozen.builder_python, platform.python_version()
    if built != ours:
        return skipped(NAME, f"built by Python {built}, and this is {ours}: bytecode differs between them")
    names = set(artifact.names())
    compiled = sorted(name for name in names if name.endswith(".pyc") and name[:-1] in names)
    made = dict(compile_all([(name[:-1], artifact.data(name[:-1])) for name in compiled], progress))
    faults = [
        Fault(name, "not what its source compiles to") for name in compiled if made[name[:-1]] != artifact.data(name)
    ]
    return checked(NAME, f"{count(len(compiled), 'compiled module')} against a fresh compilation", faults)
