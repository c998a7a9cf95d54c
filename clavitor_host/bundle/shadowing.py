"""One module of a name: nothing that a wheel brings takes the place of another's, the host's or Python's modules."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES

from clavitor_host.bundle.errors import BundleError

HOST_PACKAGE = "clavitor_host"
_SUFFIXES = (*EXTENSION_SUFFIXES, ".py", ".pyc")
"""What a module's file may end with; the longest of those that fit."""


def check_modules(owners: Mapping[str, str], host: str) -> None:
    """Refuse members that would be taken for each other's modules. Raises BundleError naming both.

    owners: the wheel of every member, before anything is compiled. host: the host's own wheel.
    """
    owned = {_top(name): wheel for name, wheel in owners.items() if _claims(name)}
    modules: dict[str, list[str]] = {}
    for name, wheel in owners.items():
        top = _top(name)
        if top in sys.stdlib_module_names:
            raise BundleError(f"{name} of {wheel} is in the place of {top}, a module of Python itself")
        owner = host if top == HOST_PACKAGE else owned.get(top, wheel)
        if wheel != owner:
            raise BundleError(f"{name} of {wheel} is in {top}, which is of {owner}")
        if module := module_of(name):
            modules.setdefault(module, []).append(name)
    for names in (sorted(names, key=lambda name: not name.endswith(".py")) for names in modules.values()):
        if len(names) > 1 and (owners[names[0]] == host or not _compiled(names)):
            raise BundleError(f"{names[0]} and {names[1]} of {owners[names[0]]} are one module")


def module_of(name: str) -> str:
    """Return the path of the module that a member is, without what its file ends with; "" when it is none."""
    stem = _stem(name)
    folder = name.rpartition("/")[0]
    if stem == "__init__" and folder:
        return folder
    return f"{folder}/{stem}".removeprefix("/") if stem else ""


def _stem(name: str) -> str:
    file = name.rpartition("/")[2]
    return next((file.removesuffix(suffix) for suffix in _SUFFIXES if file.endswith(suffix)), "")


def _top(name: str) -> str:
    """Return the folder at the artifact's root that a member is in, or the module that it is there."""
    folder, below, _ = name.partition("/")
    return folder if below else module_of(name)


def _claims(name: str) -> bool:
    """Return whether what a member is in belongs to its wheel alone: a package that is no namespace, metadata."""
    parts = name.split("/")
    return len(parts) == 1 or (len(parts) == 2 and (_stem(name) == "__init__" or parts[1] == "METADATA"))


def _compiled(names: Sequence[str]) -> bool:
    """Return whether these are a module's source and its machine code, as some compilers leave both in a wheel."""
    stem = names[0].removesuffix(".py")
    return len(names) == 2 and names[0] != stem and names[1] in {stem + suffix for suffix in EXTENSION_SUFFIXES}
