"""What the service answers: values for the routes, the commands and the page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from clavitor_licensing.clock import MICROSECONDS
from clavitor_licensing.domain.info import LicenseInfo
from clavitor_licensing.domain.limits import LicenseLimits
from clavitor_licensing.domain.schema import END_OF_TIME
from clavitor_licensing.domain.state import LicenseState
from clavitor_licensing.source import Setting
from clavitor_licensing.store import Rejection


class View(NamedTuple):
    """How licensing stands. Times ending in `_at` in µs since the epoch.

    license: the license that decides; None when there is none, or the state is INVALID. installed: the license that is
    stored and valid, also when a later token was refused; None when there is none. message: the sentence of seed
    section 5. limits: the caps that apply now. last_validated_at: when the stored token was last found good.
    days_remaining: until `exp`, negative from then on. rejection: the refused token that makes the state INVALID.
    stored_refusal: the code with which what is stored is refused.
    shadowed_by: the setting whose token replaces this license at the next start. time: now, for licensing, in Unix
    seconds; clock_stopped: it stands still until the clock has passed `seen_at`.
    """

    state: LicenseState
    message: str
    tenant_id: str
    license: LicenseInfo | None
    installed: LicenseInfo | None
    limits: LicenseLimits
    days_remaining: int | None
    last_validated_at: int | None
    installed_at: int | None
    installed_by: str | None
    source: str | None
    rejection: Rejection | None
    stored_refusal: str | None
    shadowed_by: Setting | None
    time: int
    clock_stopped: bool
    seen_at: int


class LimitUsage(NamedTuple):
    """One limit as seed section 5 shows it. source: `license` or `default`."""

    key: str
    current: int
    cap: int
    source: str


class LimitPreview(NamedTuple):
    """What a license would do to one limit. over_by: how much of what is used would be above the cap."""

    key: str
    old: int
    new: int
    used: int
    over_by: int


class RetentionPreview(NamedTuple):
    """What an environment would keep less of than now: days, or versions, by `limit`. old, new: what is in force."""

    environment: str
    limit: str
    old: int
    new: int


class Preview(NamedTuple):
    """What installing a token would do. state: what it would become. replaces: the license that is stored now. Nothing
    was changed."""

    state: LicenseState
    license: LicenseInfo
    replaces: LicenseInfo | None
    limits: tuple[LimitPreview, ...]
    retention: tuple[RetentionPreview, ...]
    shadowed_by: Setting | None


def iso(seconds: int) -> str:
    """Return Unix seconds as `2027-04-25T00:00:00Z`; what no date can say, as the nearest that can."""
    return datetime.fromtimestamp(min(max(seconds, 0), END_OF_TIME), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_of(micros: int | None) -> str | None:
    """Return µs since the epoch in the same form; None for None."""
    return None if micros is None else iso(micros // MICROSECONDS)


def status_of(view: View) -> dict[str, Any]:
    """Return what `status_report` shows, as JSON values; what there is not is left out. Telemetry reads `state`."""
    found = {
        "state": view.state.value,
        "message": view.message,
        "license_id": view.license.license_id if view.license else None,
        "expires_at": iso(view.license.exp) if view.license else None,
        "days_remaining": view.days_remaining,
        "last_validated_at": iso_of(view.last_validated_at),
    }
    return {name: value for name, value in found.items() if value is not None}
