"""Which member is a module: each once, each in the package of its own distribution, and the host's from the host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES

from clavitor_host.bundle.archive import GENERATED, MAIN
from clavitor_host.bundle.checks.models import Fault
from clavitor_host.bundle.launcher.stage2 import LAUNCHER, MANIFEST

_SUFFIXES = (*EXTENSION_SUFFIXES, ".pyc", ".py")
_HOST = "clavitor_host"
_RESERVED = {name.removesuffix(".py") for name in GENERATED} | {MANIFEST}

Owner = Callable[[str], str | None]
"""Returns the `.dist-info` folder that a member belongs to."""


def faults(names: Sequence[str], owner: Owner, host: Collection[str]) -> Iterator[Fault]:
    """Yield what an import could take for something else.

    names: all members. host: the `.dist-info` folders of the host.
    """
    yield from _twice(names, owner, host)
    yield from _misplaced(names, owner, host)
    yield from _inside_others(names, owner)


def module_of(name: str) -> tuple[str, str] | None:
    """Return the path of the module that a member is, without its ending, and the ending; None for other files."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix).removesuffix("/__init__"), suffix
    return None


def _twice(names: Sequence[str], owner: Owner, host: Collection[str]) -> Iterator[Fault]:
    found: dict[str, list[str]] = defaultdict(list)
    there = set(names)
    for name in names:
        module = module_of(name)
        if module is None:
            continue
        if module[1] == ".pyc" and name[:-1] in there:
            continue
        if module[1] == ".pyc":
            yield Fault(name, "bytecode without its source")
        found[module[0]].append(name)
    for module_name, members in found.items():
        if len(members) > 1 and not _built_from(module_name, members, owner, host):
            yield Fault(members[1], f"the same module as {members[0]}")


def _built_from(module: str, members: Sequence[str], owner: Owner, host: Collection[str]) -> bool:
    """Tell whether a wheel brings an extension module with the source that does the same; the host does not."""
    sources = [name for name in members if name.endswith(".py")]
    folders = {owner(name) for name in members}
    same = len(members) == 2 and sources == [f"{module}.py"] and not any("/__init__." in name for name in members)
    return same and len(folders) == 1 and folders.isdisjoint({None, *host})


def _misplaced(names: Sequence[str], owner: Owner, host: Collection[str]) -> Iterator[Fault]:
    compiled = {f"{name}c" for name in GENERATED - {MAIN, LAUNCHER, MANIFEST}}
    for name in names:
        root = name.partition("/")[0]
        if root == _HOST and owner(name) not in host:
            yield Fault(name, "in the host's package, and not of clavitor-host")
        elif root.partition(".")[0] in _RESERVED and name not in GENERATED and name not in compiled:
            yield Fault(name, "this name belongs to the launcher")


def _inside_others(names: Sequence[str], owner: Owner) -> Iterator[Fault]:
    packages = {
        module[0]: owner(name) for name in names if "/__init__." in name and (module := module_of(name)) is not None
    }
    for name in names:
        own, folder = owner(name), name.rpartition("/")[0]
        while own and folder:
            its = packages.get(folder)
            if its and its != own:
                yield Fault(name, f"of {own}, and inside the package {folder} of {its}")
                break
            folder = folder.rpartition("/")[0]
