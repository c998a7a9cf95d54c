"""Putting the members of an artifact together from the wheels that a lock names."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from clavitor_host.bundle import archive, index, licenses, requirements, wheels
from clavitor_host.bundle import frozen as frozen_manifest
from clavitor_host.bundle.compile import compile_source, compile_wheels
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.frozen import FrozenDistribution, FrozenEntry, FrozenManifest
from clavitor_host.bundle.launcher import stage2
from clavitor_host.bundle.lock import Lock
from clavitor_host.bundle.manifest import Manifest, label
from clavitor_host.bundle.resolve import HOST, Local
from clavitor_host.bundle.shadowing import check_modules
from clavitor_host.bundle.wheels import Wheel

Progress = Callable[[int, int], None]

_RUN_FROM_SOURCE = (archive.MAIN, stage2.LAUNCHER)
"""What proves the rest: its bytes are compared before they run, so that no bytecode of it is ever taken."""


class Assembled(NamedTuple):
    """What an artifact is to hold. `dependencies`: who requires what. `frozen` still lacks what its plugins say."""

    frozen: FrozenManifest
    members: dict[str, bytes]
    dependencies: dict[str, list[str]]


def assemble(
    manifest: Manifest, lock: Lock, here: Sequence[Local], fetched: Iterable[Wheel], progress: Progress
) -> Assembled:
    """Return the members of an artifact, and what will be said of it. Raises BundleError.

    here: the local distributions, which the lock has been compared with. fetched: the others.
    progress: called with hundredths and 100.
    """
    every = _in_order(lock, [*(item.wheel for item in here), *fetched])
    graph = _graph(manifest, every)
    members = _members(every)
    sources = [(wheel.sha256, [pair for pair in wheel.members.items() if pair[0].endswith(".py")]) for wheel in every]
    for name, code in compile_wheels(sources, wheels.cache_folder("pyc"), progress):
        if code is not None and members.setdefault(f"{name}c", code) is not code:
            raise BundleError(f"{name}c is in a wheel already: a bundle makes its own bytecode")
    frozen = _frozen(manifest, every, here)
    members |= _launcher_bytecode(frozen)
    return Assembled(frozen, members, graph)


def between(progress: Progress, low: int, high: int) -> Progress:
    """Return the progress of a part, from `low` to `high` hundredths of the whole."""
    return lambda done, total: progress(low + (high - low) * done // max(total, 1), 100)


def fetched_wheels(lock: Lock, progress: Progress) -> list[Wheel]:
    """Return the wheels of a lock that come from a package index: kept ones, and those that are fetched now."""
    kept = {item.name: wheels.cached(item.wheel, item.sha256) for item in lock.fetched}
    new = index.fetch([item for item in lock.fetched if kept[item.name] is None], progress)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda item: wheels.read(item.wheel, kept[item.name] or new[item.name]), lock.fetched))


def _in_order(lock: Lock, found: Iterable[Wheel]) -> list[Wheel]:
    """Return the wheels in the order of the lock, each the one that it names."""
    by_file = {(wheel.file, wheel.sha256): wheel for wheel in found}
    every = [by_file[item.wheel, item.sha256] for item in lock.distributions]
    for item, wheel in zip(lock.distributions, every, strict=True):
        if (wheel.name, wheel.version) != (item.name, item.version):
            raise BundleError(f"{item.wheel} is {wheel.name} {wheel.version}, the lock says {item.name} {item.version}")
    return every


def _graph(manifest: Manifest, every: Iterable[Wheel]) -> dict[str, list[str]]:
    by_name = {wheel.name: wheel for wheel in every}
    graph = requirements.dependencies(by_name, {HOST: (), **manifest.extras})
    requirements.check_forbidden(manifest, graph)
    unused = sorted(by_name.keys() - graph.keys())
    if unused:
        raise BundleError(f"{label(manifest.lock_file)}: {unused[0]} is required by nothing in the bundle; lock again")
    return graph


def _members(every: Sequence[Wheel]) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    owners: dict[str, str] = {}
    for wheel in every:
        for name, data in wheel.members.items():
            if name in owners:
                raise BundleError(f"{name} is in both {owners[name]} and {wheel.file}")
            owners[name], members[name] = wheel.file, data
    check_modules(owners, next((wheel.file for wheel in every if wheel.name == HOST), ""))
    return members


def _frozen(manifest: Manifest, every: Iterable[Wheel], here: Iterable[Local]) -> FrozenManifest:
    local = {item.locked.name for item in here}
    versions = {wheel.name: wheel.version for wheel in every}
    return FrozenManifest(
        name=manifest.name,
        version=versions[HOST],
        edition=manifest.edition,
        license=manifest.license,
        python=manifest.python,
        platform=manifest.platform,
        builder_python=platform.python_version(),
        plugins=tuple(
            FrozenEntry(item.distribution, item.module, item.optional, "", "", "", ()) for item in manifest.plugins
        ),
        distributions=tuple(
            FrozenDistribution(
                wheel.name, wheel.version, licenses.spdx(wheel.metadata), wheel.file, wheel.sha256, wheel.name in local
            )
            for wheel in sorted(every, key=lambda wheel: wheel.name)
        ),
        description={},
    )


def _generated(frozen: FrozenManifest) -> dict[str, bytes]:
    """Return the sources that come from no wheel."""
    return {**archive.launcher_members(frozen), frozen_manifest.PLUGINS: frozen_manifest.plugins_module(frozen)}


def _launcher_bytecode(frozen: FrozenManifest) -> dict[str, bytes]:
    sources = {name: data for name, data in _generated(frozen).items() if name not in _RUN_FROM_SOURCE}
    compiled = {f"{name}c": compile_source(name, data) for name, data in sources.items()}
    return {name: data for name, data in compiled.items() if data is not None}


def check_strings(manifest: Manifest, members: Mapping[str, bytes], frozen: FrozenManifest) -> None:
    """Refuse a text that the manifest forbids, in a name or in any member's bytes, in upper or lower case."""
    wanted = [(text, text.lower().encode()) for text in manifest.forbid.strings]
    manifest_member = (stage2.MANIFEST, frozen_manifest.to_bytes(frozen))
    for name, data in (*members.items(), *_generated(frozen).items(), manifest_member):
        lower, lower_name = data.lower(), name.lower().encode()
        for text, small in wanted:
            if small in lower_name or small in lower:
                raise BundleError(f"{manifest.label}: {name} contains {text!r}, which forbid.strings forbids")
