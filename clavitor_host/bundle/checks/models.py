"""What a check is given, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from clavitor_host.terminal import printable

if TYPE_CHECKING:
    from clavitor_host.bundle.archive import Artifact
    from clavitor_host.bundle.manifest import Manifest

Status = Literal["ok", "FAIL", "skipped"]


class Fault(NamedTuple):
    """One broken rule. `where`: the member that broke it, or the file."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.where)}: {printable(self.reason)}"


class Check(NamedTuple):
    """How one check ended. `what`: what it looked at, with counts."""

    name: str
    status: Status
    what: str
    faults: tuple[Fault, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**self._asdict(), "faults": [fault._asdict() for fault in self.faults]}


class Subject(NamedTuple):
    """What is checked. `digests`: the real sha256 (hex) of every member. `digest`: of the whole file."""

    artifact: Artifact
    digest: str
    digests: Mapping[str, str]
    manifest: Manifest | None
    key: Path | None


def checked(name: str, what: str, faults: Iterable[Fault]) -> Check:
    """Return a check that ended well when there are no faults."""
    found = tuple(dict.fromkeys(faults))
    return Check(name, "FAIL" if found else "ok", what, found)


def skipped(name: str, why: str) -> Check:
    """Return a check that could not be made, which is no failure."""
    return Check(name, "skipped", why)


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the right form."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
