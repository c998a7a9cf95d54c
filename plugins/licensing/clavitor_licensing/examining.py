"""What `clavitor license doctor` looks at: every reason for which caps may not be what somebody expects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from clavitor_licensing.clock import MICROSECONDS
from clavitor_licensing.domain.info import DAY, LicenseRejected
from clavitor_licensing.domain.limits import LIMITS, VALUE_LIMITS
from clavitor_licensing.domain.schema import Payload
from clavitor_licensing.domain.state import LicenseState
from clavitor_licensing.models import iso, iso_of
from clavitor_licensing.source import Configured, Keys, read_configured, read_keys
from clavitor_licensing.wording import (
    SETTINGS,
    about_refusal,
    about_setting,
    about_stored,
    advice,
    deleted,
    installed_how,
    is_full,
)

if TYPE_CHECKING:
    from clavitor_host.api import Host
    from clavitor_licensing.config import LicensingConfig
    from clavitor_licensing.models import LimitUsage, View
    from clavitor_licensing.service import LicenseService

STALE: Final = 2 * DAY
"""Seconds after which a daily validation has been missed."""


class Finding(NamedTuple):
    """One thing that was looked at. action: what a person has to do; None when all is well."""

    name: str
    detail: str
    action: str | None = None


async def examine(host: Host, service: LicenseService, config: LicensingConfig) -> Sequence[Finding]:
    """Return everything that was found, well or not."""
    tenant = host.config.tenant_id
    keys, configured = await read_keys(config, tenant), await read_configured(config)
    view = await service.view()
    wall = host.clock.now_us()
    given = None if configured is None else _judged(configured, keys, view.time)
    return [
        *_keys(keys, view),
        Finding("state", f"{view.state}. {view.message}", advice(view)),
        Finding("tenant", tenant),
        _license(view),
        *_refused(view),
        _configured(configured, given, view),
        _validated(view, wall),
        _clock(view, wall),
        *_usage(await service.usage()),
    ]


def _judged(configured: Configured, keys: Keys, now: int) -> object:
    return keys.judge(configured.token, now) if isinstance(configured.token, str) else configured.token


def _keys(keys: Keys, view: View) -> Iterator[Finding]:
    if keys.problem is not None:
        yield Finding("public key", keys.problem.message, "Put the key right; it was right when the server started.")
    elif not keys.validator.keys:
        nothing = "none: every license is refused"
        needed = view.state is not LicenseState.ABSENT
        yield Finding("public key", nothing, about_refusal("no_public_key") if needed else None)
    for key in keys.validator.keys:
        yield Finding("public key", f"SHA-256 {key.fingerprint} ({key.where})")


def _license(view: View) -> Finding:
    info = view.installed
    if info is None and view.installed_at is not None:
        return Finding("license", f"one is stored, and refused ({view.stored_refusal})", about_stored(view))
    if info is None:
        return Finding("license", "none is stored")
    named = f"{info.license_id} ({info.label})" if info.label else info.license_id
    return Finding("license", f"{named}, expires {iso(info.exp)}, grace until {iso(info.grace_ends)}")


def _refused(view: View) -> Iterator[Finding]:
    refused = view.rejection
    if refused is not None:
        yield Finding(
            "refused",
            f"{iso_of(refused.at)}, {installed_how(refused.source)}: {refused.message}",
            "The license above is still stored: install it again, or run clavitor license forget-refused."
            if view.installed
            else advice(view),
        )


def _configured(configured: Configured | None, given: object, view: View) -> Finding:
    how = installed_how(view.source)
    if configured is None:
        return Finding("source", f"installed {how}" if how else "the database; neither variable names a token")
    setting = SETTINGS[configured.source]
    if isinstance(given, LicenseRejected):
        action = about_setting(configured.source, given.code, given.message)
        return Finding("source", f"{setting}, which is refused: {given.message}", action)
    if view.shadowed_by is None:
        return Finding("source", f"{setting}, the same token that is stored")
    if view.installed_at is None:
        return Finding("source", f"{setting}, to be installed at the next start of the server")
    return Finding(
        "source",
        f"shadowed: {setting} names another token than the one installed {how}; after a restart: {_id(given)}",
        f"Put the license that is to stay into {setting}, or unset it: at the next restart it wins.",
    )


def _id(given: object) -> str:
    return given.info.license_id if isinstance(given, Payload) else "none"


def _validated(view: View, wall: int) -> Finding:
    at = view.last_validated_at
    if at is None:
        return Finding("last validated", "never: no license is stored")
    text = f"{iso_of(at)}"
    if wall - at <= STALE * MICROSECONDS:
        return Finding("last validated", text)
    days = (wall - at) // MICROSECONDS // DAY
    return Finding(
        "last validated",
        f"{text}, {days} days ago",
        "A running server validates once a day: see that it runs, and what its log says about the license.",
    )


def _clock(view: View, wall: int) -> Finding:
    text = f"{iso_of(wall)}, the highest time seen is {iso_of(view.seen_at) if view.seen_at else 'not known yet'}"
    if not view.clock_stopped:
        return Finding("clock", text)
    return Finding(
        "clock",
        f"{text}: it went back, and time for licensing stands still at {iso(view.time)}",
        "Set the clock right. If it is right now and was ahead before, run clavitor license reset-clock.",
    )


def _usage(usage: Sequence[LimitUsage]) -> Iterator[Finding]:
    over = [limit for limit in usage if limit.current > limit.cap]
    for limit in over:
        if limit.key in VALUE_LIMITS:
            found = f"{limit.current} configured, {limit.cap} allowed ({limit.source}): {deleted(limit.key, limit.cap)}"
            action = "Have the cap raised, or configure no more than it: what is deleted does not come back."
        else:
            found = f"{limit.current} in use, {limit.cap} allowed ({limit.source})"
            action = "What is there stays, new ones are refused: remove some, or have the cap raised."
        yield Finding(limit.key, found, action)
    for limit in usage:
        if is_full(limit) and limit.cap:
            yield Finding(limit.key, f"all {limit.cap} in use, the next is refused ({limit.source})")
    if not over:
        yield Finding("usage", f"within all {len(LIMITS)} caps")
