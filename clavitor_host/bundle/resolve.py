"""Making a lock: our own distributions as they build now, and what they require in the versions that were tested."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from clavitor_host.bundle import index, local, requirements, wheels
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.lock import Lock, LockedDistribution, read_or_none
from clavitor_host.bundle.manifest import Manifest, checkout, with_extras
from clavitor_host.bundle.names import normalized
from clavitor_host.bundle.wheels import Wheel

HOST = "clavitor-host"

Warn = Callable[[str], None]


class Local(NamedTuple):
    """A distribution that lies here: the host, or a plugin given as a folder or a wheel."""

    locked: LockedDistribution
    data: bytes
    wheel: Wheel


class _Pin(NamedTuple):
    version: str
    digests: frozenset[str]


def local_distributions(manifest: Manifest, warn: Warn) -> list[Local]:
    """Build the host and the plugins of a manifest that lie here, in load order. Raises BundleError.

    warn: called with one line for what was left out.
    """
    return [build_host(checkout(), warn), *local_plugins(manifest, warn)]


def build_host(root: Path, warn: Warn) -> Local:
    """Build the host of a checkout. Raises BundleError."""
    return _local(HOST, ".", *local.build_folder(root, HOST, warn))


def local_plugins(manifest: Manifest, warn: Warn) -> list[Local]:
    """Build every plugin folder of a manifest and read its wheels, in load order. Raises BundleError."""
    found = []
    for plugin in manifest.plugins:
        if plugin.file is None:
            continue
        if plugin.kind == "wheel":
            file, data = plugin.file.name, _read(plugin.file)
        else:
            file, data = local.build_folder(plugin.file, plugin.value, warn)
        found.append(_local(plugin.distribution, plugin.value, file, data))
        _check_module(manifest, plugin.distribution, plugin.module, found[-1].wheel)
    return found


def pinned_plugins(manifest: Manifest) -> list[str]:
    """Return the plugins that come from a package index, as requirements."""
    return [plugin.pinned for plugin in manifest.plugins if plugin.pinned is not None]


def lock_inputs(manifest: Manifest, here: Iterable[Local]) -> tuple[str, ...]:
    """Return what the lock of a manifest is made of, now. Raises BundleError."""
    return requirements.inputs([item.wheel for item in here], pinned_plugins(manifest), manifest.extras)


class Resolver:
    """Makes locks. Several of one checkout share what they have in common: the host's wheel, and uv.lock."""

    def __init__(self, warn: Warn) -> None:
        """warn: called with one line for what was left out of a local distribution."""
        self._warn = warn
        self._root = checkout()
        self._host = build_host(self._root, warn)
        self._tested = _tested(self._root / "uv.lock")

    def resolve(self, manifest: Manifest, progress: index.Progress, *, upgrade: bool = False) -> Lock:
        """Make the lock of a manifest. Raises BundleError.

        Versions come from the checkout's uv.lock, else from the lock there is, else the newest; `upgrade`: not from
        the lock there is. A package index is asked only when what is required changed.
        """
        here = [self._host, *local_plugins(manifest, self._warn)]
        requirements.check_extras(manifest, {item.wheel.name: item.wheel for item in here})
        wanted = lock_inputs(manifest, here)
        known = [] if upgrade else [lock for lock in map(read_or_none, _family(manifest)) if lock is not None]
        fetched = next((lock.fetched for lock in known if _still_right(lock, wanted, self._tested)), None)
        if fetched is None:
            fetched = _fetched(manifest, here, known, self._tested, progress)
        distributions = (*(item.locked for item in here), *sorted(fetched))
        return Lock(manifest.name, manifest.python, manifest.platform, wanted, distributions)


def _fetched(
    manifest: Manifest, here: Sequence[Local], known: Sequence[Lock], tested: dict[str, _Pin], progress: index.Progress
) -> tuple[LockedDistribution, ...]:
    """Ask the package index."""
    ours = {item.locked.name for item in here}
    pins = {item.name: item.version for lock in reversed(known) for item in lock.fetched}
    pins |= {name: pin.version for name, pin in tested.items()}
    for line in pinned_plugins(manifest):
        pins.pop(normalized(line.split("==")[0].split("[")[0].strip()), None)
    constraints = [f"{name}=={version}" for name, version in sorted(pins.items()) if name not in ours]
    with tempfile.TemporaryDirectory(prefix="clavitor-lock-") as place:
        lines = []
        for item in here:
            file = Path(place, item.locked.wheel)
            file.write_bytes(item.data)
            asked = with_extras(item.locked.name, manifest.extras.get(item.locked.name, ()))
            lines.append(f"{asked} @ {file.as_uri()}")
        every = index.resolve([*lines, *pinned_plugins(manifest)], constraints, Path(place, "wheels"), progress)
        found = [(file.name, file.read_bytes()) for file in every]
    read = {wheel.name: wheel for wheel in (wheels.read(name, data) for name, data in found)}
    everything = read | {item.locked.name: item.wheel for item in here}
    requirements.check_extras(manifest, everything)
    roots = {HOST: (), **manifest.extras}
    requirements.check_forbidden(manifest, requirements.dependencies(everything, roots))
    for wheel in read.values():
        pin = tested.get(wheel.name)
        if pin and pin.version == wheel.version and pin.digests and wheel.sha256 not in pin.digests:
            raise BundleError(f"{wheel.file}: the package index gives another file than the one in uv.lock")
    for name, data in found:
        wheels.keep(name, data)
    return tuple(
        LockedDistribution(wheel.name, wheel.version, wheel.file, wheel.sha256)
        for wheel in read.values()
        if wheel.name not in ours
    )


def _still_right(lock: Lock, wanted: tuple[str, ...], tested: dict[str, _Pin]) -> bool:
    """Tell whether a lock is of the same requirements, in the versions that are tested now."""
    return lock.inputs == wanted and all(
        item.name not in tested or tested[item.name].version == item.version for item in lock.fetched
    )


def _family(manifest: Manifest) -> Iterable[Manifest]:
    """Return the manifest and what it extends, to look for their locks."""
    return [manifest._replace(file=file) for file in manifest.files]


def _tested(uv_lock: Path) -> dict[str, _Pin]:
    """Return the versions in a uv.lock, of what it has in one version; nothing when there is none."""
    try:
        packages = tomllib.loads(uv_lock.read_text("utf-8"))["package"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"uv.lock cannot be read: {error}") from None
    found: dict[str, _Pin] = {}
    several = set()
    for package in packages:
        name = str(package["name"])
        if "registry" not in package.get("source", {}):
            continue
        if name in found:
            several.add(name)
        digests = (str(wheel.get("hash", "")) for wheel in package.get("wheels", ()))
        pin = frozenset(digest.removeprefix("sha256:") for digest in digests if digest.startswith("sha256:"))
        found[name] = _Pin(str(package["version"]), pin)
    return {name: pin for name, pin in found.items() if name not in several}


def _local(name: str, path: str, file: str, data: bytes) -> Local:
    wheel = wheels.read(file, data)
    if wheel.name != name:
        raise BundleError(f"{path} is the distribution {wheel.name}, the manifest calls it {name}")
    return Local(LockedDistribution(name, wheel.version, file, wheel.sha256, path), data, wheel)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror}") from None


def _check_module(manifest: Manifest, distribution: str, module: str, wheel: Wheel) -> None:
    path = module.replace(".", "/")
    if f"{path}.py" not in wheel.members and f"{path}/__init__.py" not in wheel.members:
        raise BundleError(f"{manifest.label}: plugins.{distribution}: {wheel.file} has no module {module}")
