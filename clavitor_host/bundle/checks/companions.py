"""The files beside the artifact: checksum, provenance and bill of materials are about this very file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clavitor_host.bundle.background import Background
from clavitor_host.bundle.beside import (
    CHECKSUM,
    PROVENANCE,
    SBOM,
    beside,
    checksum_fault,
    provenance_fault,
    read_file,
)
from clavitor_host.bundle.checks.models import Check, Fault, Subject, checked, count, skipped
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.sbom import schema_faults


def check_checksum(subject: Subject) -> Check:
    """Check that the checksum file is about this file."""
    return _simple(subject, "checksum", CHECKSUM, checksum_fault)


def check_provenance(subject: Subject) -> Check:
    """Check that the provenance is about this file."""
    return _simple(subject, "provenance", PROVENANCE, provenance_fault)


def _simple(subject: Subject, name: str, suffix: str, fault_of: Any) -> Check:
    path = beside(subject.artifact.path, suffix)
    try:
        data = read_file(path)
    except FileNotFoundError:
        return skipped(name, f"there is no {path.name}")
    except BundleError as error:
        return checked(name, path.name, [Fault(path.name, str(error))])
    fault = fault_of(subject.artifact.path, data, subject.digest)
    found = [Fault(path.name, fault.removeprefix(f"{path.name}: "))] if fault else []
    return checked(name, f"{path.name} against sha256 {subject.digest[:16]}…", found)


class Materials:
    """The check of the bill of materials; its slow half, the schema, is begun at once in another process."""

    def __init__(self, artifact: Path) -> None:
        self.path = beside(artifact, SBOM)
        self._data: bytes | None = None
        self._fault = ""
        try:
            self._data = data = read_file(self.path)
            self._job = Background(lambda: schema_faults(lambda: data))
        except FileNotFoundError:
            pass
        except BundleError as error:
            self._fault = str(error)

    def finish(self, subject: Subject) -> Check:
        """Return the check."""
        name = self.path.name
        if self._fault:
            return checked("materials", name, [Fault(name, self._fault)])
        if self._data is None:
            return skipped("materials", f"there is no {name}")
        reasons, died = self._job.finish()
        if died.startswith("ModuleNotFoundError"):
            return checked("materials", name, [Fault(name, "checking it needs: pip install 'clavitor-host[bundle]'")])
        reasons += [f"its validation was {died}"] if died else []
        if not reasons:
            reasons += _against_frozen(json.loads(self._data), subject)
        components = count(len(subject.artifact.frozen.distributions), "component")
        what = f"{name} by the strict schema of CycloneDX 1.6; {components} with hashes against what is inside"
        return checked("materials", what, [Fault(name, reason) for reason in reasons])


def _against_frozen(document: Any, subject: Subject) -> Iterator[str]:
    if document.get("specVersion") != "1.6":
        yield f"its specVersion is {document.get('specVersion')}, not 1.6"
    whole = document.get("metadata", {}).get("component", {}).get("hashes", ())
    if whole and {"alg": "SHA-256", "content": subject.digest} not in whole:
        yield f"its metadata is about another file: none of its hashes is {subject.digest[:12]}…"
    listed: dict[tuple[str, str], set[str]] = {}
    for component in document.get("components", ()):
        key = component.get("name", ""), component.get("version", "")
        if key in listed:
            yield f"component {' '.join(key)} is listed twice"
        hashes = component.get("hashes", ())
        listed[key] = {each.get("content", "") for each in hashes if each.get("alg") == "SHA-256"}
    inside = {(each.name, each.version): each.sha256 for each in subject.artifact.frozen.distributions}
    for key in sorted(listed.keys() - inside.keys()):
        yield f"component {' '.join(key)} is not inside"
    for key in sorted(inside.keys() - listed.keys()):
        yield f"distribution {' '.join(key)} is not listed"
    for key in sorted(inside.keys() & listed.keys()):
        if listed[key] != {inside[key]}:
            yield f"component {' '.join(key)} has another sha256 than the wheel inside"
