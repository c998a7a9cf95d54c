"""Building an artifact from a manifest and its lock: the same bytes wherever and whenever it is done.

1. The lock is fresh: what lies here builds to what it names, and requires what it resolved.
2. Every wheel is the one the lock names, and is what its own RECORD says.
3. Nothing that the manifest forbids is in it, nothing is missing, and nothing is in it for no reason.
4. The program, put together, says what it is made of; that becomes part of its frozen manifest.
5. The artifact and what lies beside it are written, each whole or not at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from clavitor_host import __version__
from clavitor_host.bundle import archive, beside, provenance, sbom
from clavitor_host.bundle.assemble import Assembled, assemble, between, check_strings, fetched_wheels
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.frozen import FrozenManifest
from clavitor_host.bundle.lock import Lock, check_fresh
from clavitor_host.bundle.manifest import Manifest, label
from clavitor_host.bundle.resolve import HOST, local_distributions, lock_inputs
from clavitor_host.bundle.tools import check_tools
from clavitor_host.bundle.workplace import workplace

Progress = Callable[[int, int], None]
Warn = Callable[[str], None]

_ANY_DIGEST = "0" * 64
"""Stands for the artifact's sha256 in the bill of materials that is validated: it differs in nothing else."""

_PATIENCE = 120.0
"""Seconds the assembled program may take to say what it is."""


class Built(NamedTuple):
    """What a build made. `size` in bytes; `plugins` as name and version, in load order."""

    path: Path
    sha256: str
    size: int
    edition: str
    version: str
    plugins: tuple[tuple[str, str], ...]
    sbom: Path
    provenance: Path
    checksum: Path


def build(manifest: Manifest, lock: Lock, out_dir: Path, progress: Progress, warn: Warn) -> Built:
    """Build the artifact of a manifest into `out_dir`, which is made when it is missing. Raises BundleError.

    progress: called with hundredths done, and 100. warn: called with one line for what was left out.
    Ended by a signal it leaves nothing behind, or what the next build sweeps up.
    """
    check_tools()
    validation = sbom.Validation()
    try:
        with ThreadPoolExecutor(1) as beside_us:  # unpacking needs another core, and no lock of the interpreter
            fetching = beside_us.submit(fetched_wheels, lock, between(progress, 0, 30))
            here = local_distributions(manifest, warn)
            check_fresh(manifest, lock, [item.locked for item in here], lock_inputs(manifest, here))
            fetched = fetching.result()
        assembled = assemble(manifest, lock, here, fetched, between(progress, 30, 70))
        with workplace(out_dir) as place:
            assembled = assembled._replace(frozen=_described(manifest, assembled, validation, place))
            progress(85, 100)
            built = _write(manifest, assembled, validation, place, out_dir)
        progress(100, 100)
        return built
    finally:
        validation.close()


def _described(manifest: Manifest, assembled: Assembled, validation: sbom.Validation, place: Path) -> FrozenManifest:
    """Return the frozen manifest with what the program, put together, says of itself.

    What else can be checked by now is checked while it does.
    """
    frozen = assembled.frozen
    file = place / _file_name(frozen)
    archive.write(file, frozen, assembled.members)
    with _asked(file) as process:
        validation.begin(sbom.document(_file_name(frozen), _ANY_DIGEST, frozen, assembled.dependencies, HOST))
        check_strings(manifest, assembled.members, frozen)
        said = _answer(manifest, process)
    file.unlink()
    plugins = tuple(
        entry._replace(
            name=plugin["name"],
            version=plugin["version"],
            clavitor_api=plugin["clavitor_api"],
            hooks=tuple(plugin["hooks"]),
        )
        for entry, plugin in zip(frozen.plugins, said["plugins"], strict=True)
    )
    description = {key: said[key] for key in ("hooks", "routes", "commands", "outbound_hosts")}
    return frozen._replace(plugins=plugins, description=description)


@contextmanager
def _asked(file: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-I", "-S", "-B", str(file), "bundle", "describe", "--json"]
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(  # noqa: S603 - the program that was just put together
        command, cwd=file.parent, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _answer(manifest: Manifest, process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise BundleError(f"{manifest.label}: the bundle does not say what it is within {_PATIENCE:.0f} s") from None
    if process.returncode:
        lines = [line for line in err.splitlines() if line.strip()] or [f"it ended with {process.returncode}"]
        raise BundleError(f"{manifest.label}: {lines[-1].removeprefix('error: ')}")
    said: dict[str, Any] = json.loads(out)
    return said


def _write(manifest: Manifest, assembled: Assembled, validation: sbom.Validation, place: Path, out_dir: Path) -> Built:
    name = _file_name(assembled.frozen)
    path, made = out_dir / name, place / name
    frozen = archive.write(made, assembled.frozen, assembled.members)
    sha256, size = beside.file_sha256(made), made.stat().st_size
    inputs = [(label(file), beside.file_sha256(file)) for file in (*manifest.files, manifest.lock_file)]
    fault = validation.fault()
    if fault:
        raise BundleError(f"{manifest.label}: its bill of materials is not CycloneDX 1.6: {fault}")
    texts = {
        beside.CHECKSUM: f"{sha256}  {name}\n".encode(),
        beside.SBOM: sbom.document(name, sha256, frozen, assembled.dependencies, HOST),
        beside.PROVENANCE: provenance.statement(name, sha256, frozen, inputs, __version__),
    }
    beside.write_all({beside.beside(made, suffix): data for suffix, data in texts.items()})
    _put(made, path, texts)
    return Built(
        path=path,
        sha256=sha256,
        size=size,
        edition=frozen.edition,
        version=frozen.version,
        plugins=tuple((plugin.name, plugin.version) for plugin in frozen.plugins),
        sbom=beside.beside(path, beside.SBOM),
        provenance=beside.beside(path, beside.PROVENANCE),
        checksum=beside.beside(path, beside.CHECKSUM),
    )


def _put(made: Path, path: Path, companions: Iterable[str]) -> None:
    """Put an artifact and what lies beside it into place, over what is there of another artifact of this name.

    Its signatures go first, the artifact comes last and its checksum before all else: whenever this ends, what lies
    there is whole, or the checksum does not fit.
    """
    try:
        for suffix in (beside.SIGNATURE, beside.ENVELOPE):
            beside.beside(path, suffix).unlink(missing_ok=True)
        for suffix in companions:
            beside.beside(made, suffix).replace(beside.beside(path, suffix))
        made.replace(path)
        beside.sync(path.parent)
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {error.strerror}") from None


def _file_name(frozen: FrozenManifest) -> str:
    return f"{frozen.name}-{frozen.version}.pyz"
