"""`/admin/license`: how the license stands, what is in use, and installing another one."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from quart import Blueprint, Response

from clavitor_host.api import Visit, invalid_field, page
from clavitor_licensing.clock import MICROSECONDS
from clavitor_licensing.domain.state import LicenseState
from clavitor_licensing.routes import service_of
from clavitor_licensing.wording import (
    LIMIT_NAMES,
    SETTINGS,
    about_refusal,
    advice,
    deletions,
    installed_how,
    is_full,
    shadow_notice,
    warnings,
)

if TYPE_CHECKING:
    from clavitor_licensing.models import LimitUsage, View

blueprint = Blueprint("license_pages", __name__)

PATH: Final = "/admin/license"
NOTICES: Final = MappingProxyType(
    {
        "installed": "The license was installed.",
        "forgotten": "The refused token was forgotten: the stored license counts again.",
        "removed": "The license was removed. The caps of the default tier apply.",
        "clock-reset": "The clock was reset: time for licensing goes on.",
    }
)
KINDS: Final = MappingProxyType(
    {
        LicenseState.ABSENT: "off",
        LicenseState.ACTIVE: "good",
        LicenseState.GRACE: "warn",
        LicenseState.EXPIRED: "bad",
        LicenseState.INVALID: "bad",
    }
)
"""The colour of each state."""


class Bar(NamedTuple):
    """One limit as the page shows it. share: what is used of it, in per cent, 100 also for more. kind: its colour."""

    key: str
    name: str
    current: int
    cap: int
    source: str
    share: int
    kind: str
    word: str


@blueprint.get(PATH)
@page(action="license.read", notices=NOTICES)
async def show_license(visit: Visit) -> Response:
    """Show it. What is in use is for an ADMIN alone, as `GET /api/v1/admin/license/usage` is."""
    service = service_of(visit.host)
    administers = visit.may("license.write")
    usage = await service.usage() if administers else ()
    view = await service.view()
    info = view.license or view.installed
    return visit.render(
        "clavitor_licensing:license.html",
        view=view,
        info=info,
        kind=KINDS[view.state],
        advice=advice(view),
        refused_how=installed_how(view.rejection.source) if view.rejection else "",
        hint=about_refusal(visit.error.code) if visit.error else None,
        shadow=_shadow(view),
        how=installed_how(view.source),
        bars=_bars(usage),
        administers=administers,
        deletions=list(deletions(await service.removal())) if administers and view.installed_at is not None else [],
        removable=view.installed_at is not None or (view.rejection and view.rejection.source not in SETTINGS),
        micros=MICROSECONDS,
    )


@blueprint.post(f"{PATH}/preview")
@page(action="license.write", again=show_license)
async def preview_license(visit: Visit) -> Response:
    """Show what a token would do. The token goes on sealed: no reply holds one."""
    token = (await visit.form()).get("token", "")
    if not token.strip():
        raise invalid_field("token", "a license")
    preview = await service_of(visit.host).preview(token)
    return visit.render(
        "clavitor_licensing:license_preview.html",
        preview=preview,
        info=preview.license,
        kind=KINDS[preview.state],
        names=LIMIT_NAMES,
        warnings=list(warnings(preview)),
        shadow=shadow_notice(preview.shadowed_by) if preview.shadowed_by else None,
        sealed=visit.seal(token),
        micros=MICROSECONDS,
    )


@blueprint.post(PATH)
@page(action="license.write", again=show_license)
async def install_license(visit: Visit) -> Response:
    token = visit.unseal((await visit.form()).get("sealed", ""))
    by = visit.identity
    await service_of(visit.host).install(token, by=by.actor, address=by.source)
    return visit.redirect(PATH, done="installed")


@blueprint.post(f"{PATH}/remove")
@page(action="license.write", again=show_license)
async def remove_license(visit: Visit) -> Response:
    if (await visit.form()).get("sure") != "yes":
        raise invalid_field("sure", "the box to be ticked")
    by = visit.identity
    await service_of(visit.host).remove(by=by.actor, address=by.source)
    return visit.redirect(PATH, done="removed")


@blueprint.post(f"{PATH}/forget-refused")
@page(action="license.write", again=show_license)
async def forget_refused(visit: Visit) -> Response:
    by = visit.identity
    await service_of(visit.host).forget_refused(by=by.actor, address=by.source)
    return visit.redirect(PATH, done="forgotten")


@blueprint.post(f"{PATH}/clock")
@page(action="license.write", again=show_license)
async def reset_clock(visit: Visit) -> Response:
    by = visit.identity
    await service_of(visit.host).reset_clock(by=by.actor, address=by.source)
    return visit.redirect(PATH, done="clock-reset")


def _shadow(view: View) -> str | None:
    """Return what to say when the next start undoes what is installed."""
    return shadow_notice(view.shadowed_by) if view.shadowed_by and view.installed_at is not None else None


def _bars(usage: Sequence[LimitUsage]) -> list[Bar]:
    return [_bar(limit) for limit in usage]


def _bar(limit: LimitUsage) -> Bar:
    key, current, cap, source = limit
    if current > cap:
        kind, word = "bad", f"{current - cap:,} over"
    elif is_full(limit):
        kind, word = "warn", "all in use"
    else:
        kind, word = "good", ""
    share = min(100, round(100 * current / cap)) if cap else 100 * bool(current)
    return Bar(key, LIMIT_NAMES[key], current, cap, source, share, kind, word)
