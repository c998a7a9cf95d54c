"""The provenance beside an artifact: an in-toto statement with SLSA's predicate. It names what went in, by digest,
and nothing of the machine or the hour."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clavitor_host.bundle.sbom import purl

if TYPE_CHECKING:
    from clavitor_host.bundle.frozen import FrozenManifest

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://clavitor.ai/build-types/bundle/v1"
BUILDER = "https://clavitor.ai/builders/clavitor-bundle"


def statement(
    file: str, sha256: str, frozen: FrozenManifest, inputs: Iterable[tuple[str, str]], host_version: str
) -> bytes:
    """Return the statement about an artifact.

    file, sha256: of the artifact. inputs: name and sha256 of the manifest, of what it extends, and of the lock.
    host_version: of the program that built it.
    """
    document = {
        "_type": STATEMENT,
        "subject": [{"name": file, "digest": {"sha256": sha256}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"inputs": [_resource(name, digest) for name, digest in inputs]},
                "internalParameters": {"python": frozen.python, "platform": frozen.platform},
                "resolvedDependencies": [
                    {"uri": purl(item), **_resource(item.wheel, item.sha256)} for item in sorted(frozen.distributions)
                ],
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER,
                    "version": {"clavitor-host": host_version, "cpython": frozen.builder_python},
                }
            },
        },
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _resource(name: str, sha256: str) -> Mapping[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}
