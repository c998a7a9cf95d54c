"""The bill of materials beside an artifact: CycloneDX 1.6 as JSON, a function of the artifact alone.

This file is also run by itself, as the process that validates one: the validator takes a second to load, which passes
while the artifact is built.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clavitor_host.bundle.frozen import FrozenDistribution, FrozenManifest

_SERIAL = uuid.uuid5(uuid.NAMESPACE_URL, "https://clavitor.ai/bundle")
_NO_SPACE = frozenset(' <>"{}|\\^`')


def document(
    file: str, sha256: str, frozen: FrozenManifest, dependencies: Mapping[str, Iterable[str]], host: str
) -> bytes:
    """Return the bill of materials of an artifact.

    file, sha256: of the artifact. dependencies: who requires what, by name. host: the distribution that everything
    starts from, with the plugins.
    """
    refs = {item.name: purl(item) for item in frozen.distributions}
    whole = f"bundle:{frozen.name}@{frozen.version}"  # a plugin's distribution may have the bundle's name
    roots = sorted({refs[host], *(refs[plugin.distribution] for plugin in frozen.plugins)})
    graph = [{"ref": whole, "dependsOn": roots}]
    graph += [
        {"ref": refs[name], "dependsOn": sorted(refs[target] for target in targets)}
        for name, targets in dependencies.items()
    ]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SERIAL, sha256)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": whole,
                "name": frozen.name,
                "version": frozen.version,
                "purl": f"pkg:generic/{frozen.name}@{frozen.version}?file_name={file}",
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                **_licenses(frozen.license),
                "properties": [
                    {"name": "clavitor:edition", "value": frozen.edition},
                    {"name": "clavitor:file", "value": file},
                    {"name": "clavitor:platform", "value": frozen.platform},
                    {"name": "clavitor:python", "value": frozen.python},
                ],
            },
        },
        "components": [_component(item) for item in sorted(frozen.distributions)],
        "dependencies": sorted(graph, key=lambda entry: str(entry["ref"])),
    }
    return (json.dumps(bom, indent=2, sort_keys=True) + "\n").encode()


def purl(item: FrozenDistribution) -> str:
    """Return the package URL of a distribution; what is built here is on no index."""
    return f"pkg:{'generic' if item.local else 'pypi'}/{item.name}@{item.version}"


class Validation:
    """The strict validator of CycloneDX 1.6 in a process of its own, loading from the moment this is made."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this file
            [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def begin(self, bom: bytes) -> None:
        """Let it look at a bill of materials."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended; `fault` says why
            self._process.stdin.write(bom)
            self._process.stdin.close()
        self._process.stdin = None

    def fault(self) -> str:
        """Wait, and return what is wrong with the bill of materials in one line, "" when nothing is."""
        out, _ = self._process.communicate()
        text = " ".join(out.decode("utf-8", "replace").split())
        return (text or "the validator ended") if self._process.returncode else ""

    def close(self) -> None:
        """End it, also when nothing was validated."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _component(item: FrozenDistribution) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": purl(item),
        "name": item.name,
        "version": item.version,
        "purl": purl(item),
        "hashes": [{"alg": "SHA-256", "content": item.sha256}],
        **_licenses(item.license),
        "properties": [{"name": "clavitor:wheel", "value": item.wheel}],
    }


def _licenses(expression: str) -> dict[str, Any]:
    if not expression:
        return {}
    if " " in expression or expression.startswith("LicenseRef-"):
        return {"licenses": [{"expression": expression}]}
    return {"licenses": [{"license": {"id": expression}}]}


def schema_faults(read: Callable[[], bytes]) -> Iterator[str]:
    """Yield where a bill of materials breaks the strict CycloneDX 1.6 schema. Run it in a process of its own.

    read: called for the bill of materials when everything is loaded. The library's grammar for internationalised
    addresses takes a second to load, several times all the rest together; the few characters that no address has are
    looked for here instead.
    """
    from importlib import import_module

    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    import_module("jsonschema").Draft7Validator.FORMAT_CHECKER.checks("iri-reference")(_may_be_address)
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    validator.validate_str("{}")  # loads the schema
    try:
        found = validator.validate_str(read().decode("utf-8"), all_errors=True)
    except ValueError as error:
        yield f"not JSON: {error}"
        return
    for each in found or ():
        cause = each.data
        yield f"not CycloneDX 1.6: {'/'.join(map(str, cause.absolute_path)) or 'the document'}: {cause.message[:200]}"


def _may_be_address(value: object) -> bool:
    return not isinstance(value, str) or not any(char in _NO_SPACE or ord(char) < 0x21 for char in value)


def _validate() -> int:
    fault = next(schema_faults(sys.stdin.buffer.read), "")
    print(fault.removeprefix("not CycloneDX 1.6: "))
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(_validate())
