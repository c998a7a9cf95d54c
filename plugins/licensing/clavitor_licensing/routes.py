"""`/api/v1/admin/license` (seed sections 5 and 6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Blueprint

from clavitor_host.api import Host, Parameter, Request, caller, endpoint, forbidden, invalid_field
from clavitor_licensing.schemas import InstallLicense, LicenseChanged, LicenseOut, PreviewOut, UsageOut

if TYPE_CHECKING:
    from clavitor_licensing.service import LicenseService

blueprint = Blueprint("license", __name__)

NAME = "licensing"


def service_of(host: Host) -> LicenseService:
    """Return the service of an app."""
    service: LicenseService = host.state[NAME]
    return service


@blueprint.get("/api/v1/admin/license")
@endpoint(action="license.read", summary="Read the license, without its token", tag="license", reply=LicenseOut)
async def read_license(request: Request) -> LicenseOut:
    return LicenseOut.of(await service_of(request.host).view())


@blueprint.post("/api/v1/admin/license")
@endpoint(
    action="license.write",
    summary="Install a license",
    tag="license",
    body=InstallLicense,
    reply=LicenseChanged,
    errors=(400,),
    parameters=(
        Parameter(
            "dry_run", "`true`: change nothing, and answer what would become of every cap.", enum=("true", "false")
        ),
    ),
)
async def install_license(request: Request, body: InstallLicense) -> LicenseChanged | PreviewOut:
    """It replaces any other. A token that is refused is a 400 that says why (`code`, `message`), and the `state` that
    the server is in now: INVALID when there was a license to replace, else what it was. A refused token is not kept."""
    service, token = service_of(request.host), body.token.get_secret_value()
    dry_run = request.query.get("dry_run", "false")
    if dry_run not in ("true", "false"):
        raise invalid_field("dry_run", "true or false")
    if dry_run == "true":
        return PreviewOut.of(await service.preview(token))
    by = caller(request)
    return LicenseChanged.of(await service.install(token, by=by.actor, address=by.source))


@blueprint.delete("/api/v1/admin/license")
@endpoint(action="license.write", summary="Remove the license", tag="license", reply=LicenseChanged, errors=(404,))
async def remove_license(request: Request) -> LicenseChanged:
    """What is above the default tier stays, and no more is created; but telemetry and artifacts are kept only as long
    as its retention says: what is older is deleted soon. `clavitor license remove` lists it before."""
    by = caller(request)
    return LicenseChanged.of(await service_of(request.host).remove(by=by.actor, address=by.source))


@blueprint.delete("/api/v1/admin/license/refused")
@endpoint(
    action="license.write",
    summary="Forget the token that was refused",
    tag="license",
    reply=LicenseChanged,
    errors=(404,),
)
async def forget_refused(request: Request) -> LicenseChanged:
    """The license that is stored counts again. A 404 (`nothing_refused`) when no token was refused."""
    by = caller(request)
    return LicenseChanged.of(await service_of(request.host).forget_refused(by=by.actor, address=by.source))


@blueprint.get("/api/v1/admin/license/usage")
@endpoint(action="license.read", summary="Read what is in use of every limit", tag="license", reply=UsageOut)
async def read_usage(request: Request) -> UsageOut:
    """For an ADMIN alone."""
    if caller(request).role != "ADMIN":
        raise forbidden("Only an ADMIN may do this.")
    service = service_of(request.host)
    usage = await service.usage()
    return UsageOut.of(service.known(), usage)


@blueprint.post("/api/v1/admin/license/clock/reset")
@endpoint(action="license.write", summary="Believe the clock again", tag="license", reply=LicenseOut)
async def reset_clock(request: Request) -> LicenseOut:
    """When the clock went back by more than a day, time for licensing stands still until it has caught up. This forgets
    the highest time that was seen."""
    by = caller(request)
    return LicenseOut.of(await service_of(request.host).reset_clock(by=by.actor, address=by.source))
