"""`clavitor bundle verify`: proves what an artifact is, from its own bytes.

What takes long runs in processes of its own, begun first: the bill of materials against its schema, the search of
every byte, the reading of bytecode. The rest runs meanwhile. Every check runs, whatever the others found.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clavitor_host.bundle.archive import Artifact, open_artifact
from clavitor_host.bundle.beside import open_regular
from clavitor_host.bundle.checks import companions, contents, members, signature, sources, structure
from clavitor_host.bundle.checks.forbidden import Search
from clavitor_host.bundle.checks.models import Check, Fault, Subject, skipped
from clavitor_host.bundle.checks.recompile import Recompilation
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.fingerprints import Fingerprints, fingerprints, forbidden_folders
from clavitor_host.bundle.manifest import Manifest, checkout, load
from clavitor_host.bundle.manifest import names as manifest_names

_START = b"#!/usr/bin/env python3\n"
Begun = TypeVar("Begun")

_NOTHING = Fingerprints({}, {}, {}, {}, {}, {})


class Report(NamedTuple):
    """What was found. `digest`: sha256 (hex) of the file."""

    path: Path
    digest: str
    checks: tuple[Check, ...]

    @property
    def faults(self) -> list[Fault]:
        """Every broken rule."""
        return [fault for check in self.checks for fault in check.faults]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        checks = [check.as_dict() for check in self.checks]
        return {"artifact": self.path.name, "sha256": self.digest, "ok": not self.faults, "checks": checks}


class Options(NamedTuple):
    """What to check against.

    `manifest`: a file, or the name of one in the checkout; None: the one with the artifact's bundle name.
    `no_manifest`: do without one. `key`: the signer's public key. `recompile`: every module, not only our own.
    """

    manifest: str | None = None
    no_manifest: bool = False
    key: Path | None = None
    recompile: bool = False


def verify(path: Path, options: Options, progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Check everything about the artifact at `path`. Raises BundleError when it cannot be read as one at all.

    progress: called while modules are compiled again, with those done and all.
    """
    collecting = gc.isenabled()
    gc.disable()  # nearly all that is made here stays until the end
    try:
        return _verify(path, options, progress)
    finally:
        if collecting:
            gc.enable()


def _verify(path: Path, options: Options, progress: Callable[[int, int], None]) -> Report:
    with opened(path) as artifact:
        materials = _begun(lambda: companions.Materials(path))
        manifest, absent = _manifest(artifact, options)
        prints, missing = _prints(manifest)
        forbid = manifest.forbid if manifest else None
        strings, globs = (forbid.strings, forbid.distributions) if forbid else ((), ())
        search = _begun(lambda: Search(artifact, strings, globs, prints))
        records = _begun(lambda: members.read_records(artifact))
        lock = _begun(lambda: contents.LockCheck(artifact, manifest, records())) if manifest is not None else None
        recompilation = _begun(lambda: Recompilation(artifact, None if options.recompile else records()))
        digest = digest_of(artifact)
        digests = {name: hashlib.sha256(artifact.data(name)).hexdigest() for name in artifact.names()}
        subject = Subject(artifact, digest, digests, manifest, options.key)
        checks = [
            *_guarded(path, "structure", lambda: structure.check(artifact, digests)),
            *_guarded(path, "members", lambda: members.check_frozen(artifact, digests)),
            *_guarded(path, "records", lambda: members.check_records(artifact, digests, records())),
            *_guarded(path, "sources", lambda: sources.check(artifact)),
            *_guarded(path, "plugins", lambda: contents.check_inside(artifact)),
        ]
        if manifest is not None and lock is not None:
            checks += _guarded(path, "manifest", lambda: contents.check_manifest(artifact, manifest))
            checks += _guarded(path, "lock", lambda: lock().finish())
        else:
            checks += absent
        searched = _guarded(path, "forbidden", lambda: search().finish(digests, missing))
        checks += [check for check in searched if manifest is not None or check.name == "bytecode" or check.faults]
        checks += _guarded(path, "checksum", lambda: companions.check_checksum(subject))
        checks += _guarded(path, "provenance", lambda: companions.check_provenance(subject))
        checks += _guarded(path, "materials", lambda: materials().finish(subject))
        checks += _guarded(path, "signature", lambda: signature.check(subject))
        checks += _guarded(path, "recompiled", lambda: recompilation().finish(progress))
        return Report(path, digest, tuple(checks))


def _begun(begin: Callable[[], Begun]) -> Callable[[], Begun]:
    """Begin something now; what is returned gives it, or raises what prevented it, in the check that needs it."""
    try:
        made = begin()
    except Exception as error:  # noqa: BLE001 - bytes made to harm raise anything
        return partial(_raise, error)
    return lambda: made


def _raise(error: Exception) -> Any:
    raise error


def _guarded(path: Path, name: str, check: Callable[[], Check | list[Check]]) -> list[Check]:
    """Make a check; whatever ends it is its failure, and the others go on."""
    try:
        made = check()
    except Exception as error:  # noqa: BLE001 - bytes made to harm raise anything
        reason = f"it cannot be checked: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [Check(name, "FAIL", "", (Fault(path.name, reason),))]
    return made if isinstance(made, list) else [made]


def opened(path: Path) -> Artifact:
    """Open an artifact, telling plainly what is none. Raises BundleError."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise BundleError(f"{path}: it is empty")
            if file.read(len(_START)) != _START:
                raise BundleError(f"{path}: not a bundle: it does not begin as one")
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    artifact = open_artifact(path)
    if artifact.layout.size != size:
        artifact.close()
        raise BundleError(f"{path.name}: {size} bytes, and what it says of itself makes {artifact.layout.size}")
    return artifact


def digest_of(artifact: Artifact) -> str:
    """Return the sha256 (hex) of the open file."""
    with os.fdopen(os.dup(artifact.fd), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(artifact: Artifact, options: Options) -> tuple[Manifest | None, list[Check]]:
    """Return the manifest, else the checks that say that what needs one was not made."""
    if options.no_manifest:
        names = ("manifest", "lock", "forbidden", "content")
        return None, [skipped(name, "--no-manifest") for name in names]
    if options.manifest is not None:
        return load(options.manifest), []
    name = artifact.frozen.name
    try:
        found = [manifest for each in manifest_names() if (manifest := _loaded(each)) and manifest.name == name]
    except BundleError:
        found = []
    if found:
        return found[0], []
    reason = f"no manifest of {name} in bundles/ of this checkout: name it with --manifest, or pass --no-manifest"
    return None, [Check("manifest", "FAIL", "", (Fault(artifact.path.name, reason),))]


def _loaded(name: str) -> Manifest | None:
    try:
        return load(name)
    except BundleError:
        return None


def _prints(manifest: Manifest | None) -> tuple[Fingerprints, list[str]]:
    """Return what gives forbidden content away, and the forbidden names without a source folder here."""
    if manifest is None:
        return _NOTHING, []
    roots = [manifest.root]
    with suppress(BundleError):
        roots.append(checkout())
    globs = manifest.forbid.distributions
    folders: dict[Path, None] = {}
    missing = list(globs)
    for root in dict.fromkeys(roots):
        found, without = forbidden_folders(root, globs)
        folders.update(dict.fromkeys(found.values()))
        missing = [glob for glob in missing if glob in without]
    if not folders:
        return _NOTHING, missing
    allowed = [root / "clavitor_host" for root in dict.fromkeys(roots) if (root / "clavitor_host").is_dir()]
    allowed += [each.file for each in manifest.plugins if each.kind == "path" and each.file is not None]
    return fingerprints(folders, allowed), missing
