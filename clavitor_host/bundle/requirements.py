"""Who requires what: the requirements of wheels, evaluated for the Python and platform of a bundle."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.manifest import Manifest, with_extras
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


def inputs(local: Iterable[Wheel], pinned: Iterable[str], extras: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Return what a lock is made of: the extras asked, what local wheels require with them, and pinned plugins. Sorted.

    extras: those asked of each distribution. Raises BundleError for one of our own distributions that nobody put into
    the bundle.
    """
    from packaging.requirements import Requirement

    wheels = {wheel.name: wheel for wheel in local}
    given = {normalized(Requirement(text).name) for text in pinned}
    found = {*pinned, *(with_extras(name, extras[name]) for name in wheels if extras.get(name))}
    asked = {name: set(extras.get(name, ())) for name in wheels}
    todo = list(wheels)
    while todo:
        wheel = wheels[todo.pop()]
        for requirement in applying(wheel, asked[wheel.name]):
            name = normalized(requirement.name)
            requirement.marker = None
            if name in wheels:
                if not requirement.extras <= asked[name]:
                    asked[name] |= requirement.extras
                    todo.append(name)
            elif name in given:
                found |= {str(requirement)} if requirement.extras else set()
            elif name.startswith(OURS):
                raise BundleError(f"{wheel.name} requires {name}, which is not in [plugins]")
            else:
                found.add(str(requirement))
    return tuple(sorted(found))


def check_extras(manifest: Manifest, wheels: Mapping[str, Wheel]) -> None:
    """Refuse an extra that a plugin does not have, of the plugins that are among these wheels. Raises BundleError."""
    for plugin in manifest.plugins:
        known = wheels[plugin.distribution].extras if plugin.distribution in wheels else plugin.extras
        for extra in plugin.extras:
            if extra not in known:
                there = f"there are: {', '.join(known)}" if known else "it has none"
                raise BundleError(f"{manifest.label}: plugins.{plugin.distribution}: no extra {extra} ({there})")


def dependencies(wheels: Mapping[str, Wheel], roots: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Return `{distribution: what it requires}` for all that the roots reach, with the extras asked of each. Raises
    BundleError for what is missing from `wheels`, or is there in another version than is required."""
    graph: dict[str, set[str]] = {}
    extras = {name: set(asked) for name, asked in roots.items()}
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
            known |= {target} - {name}  # extras may be made of one another
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
