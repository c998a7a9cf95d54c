"""Audit rows of the category LICENSE: actions and payloads as seed section 6.5 has them. No token is ever in one."""

from __future__ import annotations

from typing import Any, Final

from clavitor_host.api import AuditEntry
from clavitor_licensing.domain.info import LicenseInfo
from clavitor_licensing.models import iso, iso_of

CATEGORY: Final = "LICENSE"
SYSTEM: Final = "system"
"""Who acts when nobody does: the start, a job, the clock."""


def installed(info: LicenseInfo, *, by: str, source: str, replaces: str | None, address: str) -> AuditEntry:
    """A license was installed; `replaces`: the id of the one that was there before, "" for one without an id."""
    payload: dict[str, Any] = {
        "licenseId": info.license_id,
        "expiresAt": iso(info.exp),
        "installedBy": by,
        "source": source,
    }
    if replaces is None:
        return _entry("install_license", by, "installed a license", payload, address)
    return _entry("replace_license", by, "replaced the license", {**payload, "previousLicenseId": replaces}, address)


def rejected(reason: str, *, by: str, source: str, address: str = "") -> AuditEntry:
    """A token was refused."""
    return _entry("reject_license", by, "rejected a license", {"reason": reason, "source": source}, address)


def revalidated(license_id: str, reason: str) -> AuditEntry:
    """The stored token was validated again, and refused."""
    payload = {"licenseId": license_id, "reason": reason}
    return _entry("revalidate_license", SYSTEM, "the stored license is not valid any more", payload)


def removed(license_id: str | None, *, by: str, address: str) -> AuditEntry:
    """The license was removed."""
    return _entry("remove_license", by, "removed the license", {"licenseId": license_id, "removedBy": by}, address)


def forgotten(reason: str, source: str, *, by: str, address: str) -> AuditEntry:
    """A refused token was forgotten: what is stored counts again."""
    payload = {"reason": reason, "source": source, "forgottenBy": by}
    return _entry("forget_refused_license", by, "forgot a refused license", payload, address)


def cap_exceeded(*, limit: str, current: int, cap: int, requested_by: str, state: str) -> AuditEntry:
    """A cap refused something."""
    payload = {"limit": limit, "current": current, "cap": cap, "requestedBy": requested_by, "state": state}
    return _entry("cap_exceeded", requested_by, f"license cap reached: {limit}", payload)


def clock_rolled_back(seen_at: int, now: int) -> AuditEntry:
    """The clock went back so far that time for licensing stands still. Both in µs."""
    payload = {"highestSeen": iso_of(seen_at), "now": iso_of(now)}
    return _entry("clock_rollback", SYSTEM, "the clock went back: time for licensing stands still", payload)


def clock_reset(seen_at: int, now: int, *, by: str, address: str) -> AuditEntry:
    """The highest time seen was forgotten. Both in µs."""
    payload = {"highestSeen": iso_of(seen_at), "now": iso_of(now), "resetBy": by}
    return _entry("reset_clock", by, "reset the clock of licensing", payload, address)


def _entry(action: str, actor: str, title: str, payload: dict[str, Any], address: str = "") -> AuditEntry:
    return AuditEntry(CATEGORY, action, actor, title, payload=payload, source=address)
