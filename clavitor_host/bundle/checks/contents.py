"""What is inside, against what the manifest and its lock say belongs inside."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from clavitor_host.bundle.archive import Artifact
from clavitor_host.bundle.checks.members import Records, installed
from clavitor_host.bundle.checks.models import Check, Fault, checked, count
from clavitor_host.bundle.checks.wheels import WheelComparison
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.launcher.stage2 import MANIFEST
from clavitor_host.bundle.lock import Lock
from clavitor_host.bundle.lock import read as read_lock
from clavitor_host.bundle.manifest import Manifest, label

HOST = "clavitor_host/__init__.py"
LARGEST_HOST = 1 << 20
"""Bytes: the file is a few lines."""


def check_manifest(artifact: Artifact, manifest: Manifest) -> Check:
    """Compare name, edition and plugins with the manifest."""
    faults = list(_against_manifest(artifact, manifest))
    plugins = count(len(artifact.frozen.plugins), "plugin")
    what = f"{artifact.frozen.name}, {artifact.frozen.edition} edition, {plugins} in order: against {manifest.label}"
    return checked("manifest", what, faults)


class LockCheck:
    """The comparison with the lock; its slow half, of the wheels, is begun at once in another process."""

    def __init__(self, artifact: Artifact, manifest: Manifest, records: Records) -> None:
        self._artifact = artifact
        self._where = label(manifest.lock_file)
        self._fault = ""
        try:
            self._lock = read_lock(manifest)
            self._wheels = WheelComparison(artifact, records, manifest, self._lock)
        except BundleError as error:
            self._fault = str(error).removeprefix(f"{self._where} ")

    def finish(self) -> Check:
        """Return the check."""
        where = self._where
        if self._fault:
            return checked("lock", where, [Fault(where, self._fault)])
        compared = self._wheels.finish()
        distributions = count(len(self._lock.distributions), "distribution")
        what = f"versions and wheels of {distributions} against {where}: {compared.proved}"
        return checked("lock", what, [*_against_lock(self._artifact, self._lock, where), *compared.faults])


def check_inside(artifact: Artifact) -> Check:
    """Compare the frozen manifest with what the members themselves say; no manifest is needed."""
    faults = [*_against_metadata(artifact), *_api_ranges(artifact)]
    distributions = count(len(artifact.frozen.distributions), "distribution")
    plugins = count(len(artifact.frozen.plugins), "plugin")
    return checked("plugins", f"metadata of {distributions}; the API that {plugins} take, and the host's", faults)


def api_version(artifact: Artifact) -> str:
    """Return the plugin contract's version of the host inside; "" when it cannot be told."""
    if HOST not in artifact.names():
        return ""
    data = artifact.data(HOST)
    try:
        tree = ast.parse(data if len(data) <= LARGEST_HOST else b"")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested beyond what Python takes
        return ""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if "API_VERSION" in names:
                return str(node.value.value)
    return ""


def _against_manifest(artifact: Artifact, manifest: Manifest) -> Iterator[Fault]:
    frozen = artifact.frozen
    for field in ("name", "edition", "license", "python", "platform"):
        has, wanted = getattr(frozen, field), getattr(manifest, field)
        if has != wanted:
            yield Fault(MANIFEST, f"{field} is {has}, {manifest.label} says {wanted}")
    has_plugins = [(each.distribution, each.module, each.optional) for each in frozen.plugins]
    wanted_plugins = [(each.distribution, each.module, each.optional) for each in manifest.plugins]
    for entry in has_plugins:
        if entry[0] not in {wanted[0] for wanted in wanted_plugins}:
            yield Fault(MANIFEST, f"plugin {entry[0]} is not in {manifest.label}")
    for wanted in wanted_plugins:
        if wanted[0] not in {entry[0] for entry in has_plugins}:
            yield Fault(MANIFEST, f"plugin {wanted[0]} of {manifest.label} is missing")
        elif wanted not in has_plugins:
            yield Fault(MANIFEST, f"plugin {wanted[0]}: {manifest.label} says another module or `optional`")
    if has_plugins != wanted_plugins and sorted(has_plugins) == sorted(wanted_plugins):
        yield Fault(MANIFEST, f"the plugins are in another order than in {manifest.label}")
    for each in frozen.distributions:
        if glob := manifest.forbid.rule_against(each.name):
            yield Fault(MANIFEST, f"distribution {each.name} is forbidden by {manifest.label} ({glob})")
    for found in installed(artifact):
        if glob := manifest.forbid.rule_against(found.name):
            yield Fault(f"{found.folder}/METADATA", f"distribution {found.name} is forbidden ({glob})")


def _against_lock(artifact: Artifact, lock: Lock, where: str) -> Iterator[Fault]:
    if lock.manifest != artifact.frozen.name:
        yield Fault(where, f"made for {lock.manifest}, not {artifact.frozen.name}")
    has = {each.name: each for each in artifact.frozen.distributions}
    locked = {each.name: each for each in lock.distributions}
    for name in sorted(has.keys() - locked.keys()):
        yield Fault(MANIFEST, f"distribution {name} is not in {where}")
    for name in sorted(locked.keys() - has.keys()):
        yield Fault(MANIFEST, f"distribution {name} of {where} is missing")
    for name in sorted(has.keys() & locked.keys()):
        for field in ("version", "wheel", "sha256"):
            found, wanted = getattr(has[name], field), getattr(locked[name], field)
            if found != wanted:
                yield Fault(MANIFEST, f"{field} of distribution {name} is {found}, {where} says {wanted}")
        if has[name].local != (locked[name].path is not None):
            other = "a package index" if has[name].local else "the checkout"
            yield Fault(MANIFEST, f"distribution {name} is from {other} by {where}")


def _against_metadata(artifact: Artifact) -> Iterator[Fault]:
    frozen = {each.name: each.version for each in artifact.frozen.distributions}
    seen: dict[str, str] = {}
    for found in installed(artifact):
        where = f"{found.folder}/METADATA"
        if found.name in seen:
            yield Fault(where, f"distribution {found.name} is inside twice")
        elif found.name not in frozen:
            yield Fault(where, f"distribution {found.name} is not in {MANIFEST}")
        elif found.version != frozen[found.name]:
            yield Fault(where, f"version {found.version}, {MANIFEST} says {frozen[found.name]}")
        seen[found.name] = found.version
    for name in sorted(frozen.keys() - seen.keys()):
        yield Fault(MANIFEST, f"distribution {name} is not inside")


def _api_ranges(artifact: Artifact) -> Iterator[Fault]:
    from clavitor_host.plugins.api_range import in_range

    version = api_version(artifact)
    names = set(artifact.names())
    if not version:
        yield Fault(HOST, "does not say which version of the plugin contract it has")
        return
    for plugin in artifact.frozen.plugins:
        module = plugin.module.replace(".", "/")
        if not names & {f"{module}.py", f"{module}/__init__.py"}:
            yield Fault(MANIFEST, f"module {plugin.module} of plugin {plugin.name} is not inside")
        try:
            fits = in_range(version, plugin.clavitor_api)
        except ValueError as error:
            yield Fault(MANIFEST, f"plugin {plugin.name}: {error}")
            continue
        if not fits:
            yield Fault(MANIFEST, f"plugin {plugin.name} needs API {plugin.clavitor_api}, the host has {version}")
