"""Who requires what: the requirements of wheels, evaluated for the Python and platform of a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.manifest import Manifest
from clavitor_host.bundle.names import normalized
from clavitor_host.bundle.wheels import Wheel

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OURS = "clavitor-"
"""How the names of our own distributions begin: they are never looked for on a package index unasked."""


def applying(wheel: Wheel, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Yield the requirements of a wheel that hold here, with some of its extras. Raises BundleError."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in wheel.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise BundleError(f"{wheel.file}: {text!r} is not a requirement") from None
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def inputs(local: Iterable[Wheel], pinned: Iterable[str]) -> tuple[str, ...]:
    """Return what has to come from a package index: what local wheels require, and pinned plugins. Sorted.

    Raises BundleError for one of our own distributions that nobody put into the bundle.
    """
    from packaging.requirements import Requirement

    wheels = {wheel.name: wheel for wheel in local}
    given = {normalized(Requirement(text).name) for text in pinned}
    found = set(pinned)
    for wheel in wheels.values():
        for requirement in applying(wheel):
            name = normalized(requirement.name)
            if name in wheels or name in given:
                continue
            if name.startswith(OURS):
                raise BundleError(f"{wheel.name} requires {name}, which is not in [plugins]")
            requirement.marker = None
            found.add(str(requirement))
    return tuple(sorted(found))


def dependencies(wheels: Mapping[str, Wheel], roots: Iterable[str]) -> dict[str, list[str]]:
    """Return `{distribution: what it requires}` for all that the roots reach. Raises BundleError for what is missing
    from `wheels`, or is there in another version than is required."""
    graph: dict[str, set[str]] = {}
    extras: dict[str, set[str]] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        known = graph.setdefault(name, set())
        for requirement in applying(wheels[name], extras.get(name, ())):
            target = normalized(requirement.name)
            wheel = wheels.get(target)
            if wheel is None:
                raise BundleError(f"{name} requires {target}, which is not in the bundle")
            if not requirement.specifier.contains(wheel.version, prereleases=True):
                raise BundleError(f"{name} requires {requirement.name}{requirement.specifier}, found {wheel.version}")
            wanted = extras.setdefault(target, set())
            if target not in graph or not requirement.extras <= wanted:
                wanted |= requirement.extras
                todo.append(target)
                graph.setdefault(target, set())
            known.add(target)
    return {name: sorted(targets) for name, targets in sorted(graph.items())}


def check_forbidden(manifest: Manifest, graph: Mapping[str, Iterable[str]]) -> None:
    """Refuse a distribution that the manifest forbids, naming who requires it. Raises BundleError."""
    for name in graph:
        rule = manifest.forbid.rule_against(name)
        if rule:
            requirer = next((other for other, targets in graph.items() if name in targets), "the manifest")
            raise BundleError(
                f"{manifest.label}: {name} is forbidden by forbid.distributions ({rule}), and {requirer} requires it"
            )
