"""`bundles/<name>.lock`: what a manifest resolved to, to the byte. A build reads this and never resolves."""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.manifest import Manifest, checkout, label

FORMAT = 1

_HEAD = "# What {manifest} resolved to. Written by: clavitor bundle lock {argument}\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = ("manifest", "python", "platform")
_FIELDS = ("name", "version", "wheel", "sha256")
_SHOWN = 4
"""Digits of a digest that a message shows."""


class LockedDistribution(NamedTuple):
    """One distribution, by the sha256 of its wheel. `path`: of one that lies here, as the manifest has it."""

    name: str
    version: str
    wheel: str
    sha256: str
    path: str | None = None


class Lock(NamedTuple):
    """What a manifest resolved to. `inputs`: the requirements that were resolved; `distributions`: the local ones in
    load order, then the others by name."""

    manifest: str
    python: str
    platform: str
    inputs: tuple[str, ...]
    distributions: tuple[LockedDistribution, ...]

    @property
    def local(self) -> tuple[LockedDistribution, ...]:
        """What is built here, or lies here as a wheel."""
        return tuple(item for item in self.distributions if item.path is not None)

    @property
    def fetched(self) -> tuple[LockedDistribution, ...]:
        """What comes from a package index."""
        return tuple(item for item in self.distributions if item.path is None)


class Change(NamedTuple):
    """One distribution that two locks do not have alike. `old` or `new` is None when it was added or removed."""

    name: str
    old: LockedDistribution | None
    new: LockedDistribution | None

    def __str__(self) -> str:
        if self.old is None:
            assert self.new is not None
            return f"added {self.name} {self.new.version}"
        if self.new is None:
            return f"removed {self.name} {self.old.version}"
        if self.old.version != self.new.version:
            return f"changed {self.name} {self.old.version} → {self.new.version}"
        return f"changed {self.name} {self.old.version} ({self.old.sha256[:_SHOWN]}… → {self.new.sha256[:_SHOWN]}…)"


def command(manifest: Manifest) -> str:
    """Return what writes the lock of a manifest."""
    return f"clavitor bundle lock {argument(manifest)}"


def argument(manifest: Manifest) -> str:
    """Return how the command line names a manifest: a stock one by name."""
    with suppress(BundleError):
        if manifest.file.parent == checkout() / "bundles":
            return manifest.file.stem
    return manifest.label


def read(manifest: Manifest) -> Lock:
    """Read the lock beside a manifest. Raises BundleError when it is missing or damaged."""
    file = manifest.lock_file
    where = label(file)
    try:
        document = tomllib.loads(file.read_text("utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']} is not {FORMAT}")
        texts = [_text(document, key) for key in _TEXTS]
        inputs = tuple(str(item) for item in document["inputs"])
        distributions = tuple(_distribution(item) for item in document["distribution"])
    except FileNotFoundError:
        raise BundleError(f"{where} is missing; run: {command(manifest)}") from None
    except OSError as error:
        raise BundleError(f"{where} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        cause = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{where} is damaged: {cause}; run: {command(manifest)}") from None
    return Lock(texts[0], texts[1], texts[2], inputs, distributions)


def read_or_none(manifest: Manifest) -> Lock | None:
    """Read the lock beside a manifest; None when there is none that can be used."""
    try:
        return read(manifest)
    except BundleError:
        return None


def write(manifest: Manifest, lock: Lock) -> None:
    """Write the lock beside its manifest, whole or not at all. Raises BundleError."""
    file = manifest.lock_file
    beside = None
    try:
        handle, beside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(to_text(manifest, lock))
            out.flush()
            os.fsync(handle)
        Path(beside).chmod(0o644)
        Path(beside).replace(file)
    except OSError as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise BundleError(f"{label(file)} cannot be written: {error.strerror}") from None


def to_text(manifest: Manifest, lock: Lock) -> str:
    """Return a lock as it stands in its file."""
    lines = [_HEAD.format(manifest=manifest.label, argument=argument(manifest)) + f"format = {FORMAT}"]
    lines += [f"{key} = {_quoted(getattr(lock, key))}" for key in _TEXTS]
    lines += ["inputs = [", *(f"    {_quoted(item)}," for item in lock.inputs), "]"]
    for item in lock.distributions:
        lines += ["", "[[distribution]]", *(f"{key} = {_quoted(getattr(item, key))}" for key in _FIELDS)]
        lines += [f"path = {_quoted(item.path)}"] if item.path is not None else []
    return "\n".join(lines) + "\n"


def differences(old: Lock | None, new: Lock) -> Iterator[Change]:
    """Yield what changed, by name."""
    before = {item.name: item for item in old.distributions} if old else {}
    after = {item.name: item for item in new.distributions}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name), after.get(name))


def check_fresh(manifest: Manifest, lock: Lock, local: Sequence[LockedDistribution], inputs: Iterable[str]) -> None:
    """Refuse a lock that was made of something else than what lies here now. Raises BundleError naming the first.

    local: the host and the plugins of the manifest as they build now. inputs: what they require now.
    """
    reason = _staleness(manifest, lock, local, tuple(inputs))
    if reason:
        raise BundleError(f"{label(manifest.lock_file)} is stale: {reason}; run: {command(manifest)}")


def _staleness(
    manifest: Manifest, lock: Lock, local: Sequence[LockedDistribution], inputs: tuple[str, ...]
) -> str | None:
    for key, locked, wanted in (
        ("bundle.name", lock.manifest, manifest.name),
        ("Python", lock.python, manifest.python),
        ("platform", lock.platform, manifest.platform),
    ):
        if locked != wanted:
            return f"it was made for {key} {locked}, the manifest says {wanted}"
    locked_local = {item.name: item for item in lock.local}
    for item in local:
        known = locked_local.pop(item.name, None)
        if known is None:
            return f"{item.name} is in the manifest and not in the lock"
        if known.sha256 != item.sha256:
            was, now = known.sha256[:_SHOWN], item.sha256[:_SHOWN]
            return f"{item.name} was locked as {was}…, its source now builds {now}…"
    if locked_local:
        return f"{min(locked_local)} is in the lock and not in the manifest"
    if [item.name for item in lock.local] != [item.name for item in local]:
        return "the plugins are in another order"
    if lock.inputs != inputs:
        return f"what is required changed: {', '.join(sorted(set(lock.inputs) ^ set(inputs)))}"
    return None


def _distribution(item: dict[str, Any]) -> LockedDistribution:
    name, version, wheel, sha256 = (_text(item, key) for key in _FIELDS)
    if not _SHA256.fullmatch(sha256) or not wheel.endswith(".whl") or "/" in wheel:
        raise ValueError(f"{name} has no usable wheel or sha256")
    return LockedDistribution(name, version, wheel, sha256, _text(item, "path") if "path" in item else None)


def _text(table: dict[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is not a text")
    return value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
