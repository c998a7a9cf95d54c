"""Whether what is inside came out of the wheels that the lock names, by their sha256.

A wheel built from a checkout is a function of its members, so it is made again from those inside. Of any other, the
RECORD inside is compared with that of the wheel in the cache; what is not in the cache proves nothing, and is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clavitor_host.bundle.archive import Artifact
from clavitor_host.bundle.background import Background
from clavitor_host.bundle.checks.members import Records, installed
from clavitor_host.bundle.checks.models import Fault, count
from clavitor_host.bundle.lock import Lock, LockedDistribution
from clavitor_host.bundle.manifest import Manifest


class Compared(NamedTuple):
    """What came of it. `proved`: in words."""

    proved: str
    faults: list[Fault]


class WheelComparison:
    """The comparison, begun at once in another process."""

    def __init__(self, artifact: Artifact, records: Records, manifest: Manifest, lock: Lock) -> None:
        self._job = Background(lambda: _outcomes(artifact, records, manifest, lock))

    def finish(self) -> Compared:
        """Wait for it, and return what came of it."""
        values, died = self._job.finish()
        how = [kind for kind, _, _ in values]
        faults = [Fault(name, reason) for kind, name, reason in values if kind == "fault"]
        if died:
            faults.append(Fault("wheels", f"comparing them was {died}"))
        proved = f"{how.count('made')} made again from what is inside, {how.count('read')} compared with the cache"
        absent = how.count("absent")
        if absent:
            proved += f"; {count(absent, 'wheel')} not at hand to compare, so not proved"
        return Compared(proved, faults)


def _outcomes(artifact: Artifact, records: Records, manifest: Manifest, lock: Lock) -> Iterator[tuple[str, str, str]]:
    """Yield for each distribution how it was proved ("made", "read", "absent"), or "fault", the member and a reason."""
    folders = {each.name: each.folder for each in installed(artifact)}
    files = {each.distribution: each.file for each in manifest.plugins if each.kind == "wheel"}
    for each in lock.distributions:
        folder = folders.get(each.name)
        if folder is None or f"{folder}/RECORD" not in records.rows:
            continue  # told by the checks of metadata and records
        if each.path is not None and each.name not in files:
            yield _made_again(artifact, records, each, folder)
            continue
        data = _at_hand(each, files.get(each.name))
        yield ("absent", each.name, "") if data is None else _read(artifact, each, folder, data)


def _made_again(artifact: Artifact, records: Records, locked: LockedDistribution, folder: str) -> tuple[str, str, str]:
    from clavitor_host.bundle.local import packed

    record, names = f"{folder}/RECORD", set(artifact.names())
    rows = records.rows[record]
    if any(not row.name for row in rows):
        return "fault", record, f"{locked.wheel} has files that no artifact holds, so that it cannot be made again"
    found = hashlib.sha256(packed({row.listed: artifact.data(row.name) for row in rows if row.name in names}))
    if found.hexdigest() == locked.sha256:
        return "made", locked.name, ""
    return (
        "fault",
        record,
        (
            f"what is inside of {locked.name} makes a wheel with sha256 {found.hexdigest()[:12]}…, "
            f"the lock says {locked.sha256[:12]}…"
        ),
    )


def _at_hand(locked: LockedDistribution, file: Path | None) -> bytes | None:
    """Return the wheel that the lock names, from where the manifest has it or from the cache; None for neither."""
    from clavitor_host.bundle import wheels

    if file is None:
        return wheels.cached(locked.wheel, locked.sha256)
    try:
        data = file.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == locked.sha256 else None


def _read(artifact: Artifact, locked: LockedDistribution, folder: str, data: bytes) -> tuple[str, str, str]:
    from clavitor_host.bundle import wheels

    record = f"{folder}/RECORD"
    if wheels.record_of(data, folder) == artifact.data(record):
        return "read", locked.name, ""
    return "fault", record, f"not that of {locked.wheel}, whose sha256 the lock has"
