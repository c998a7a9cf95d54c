"""`/api/v1/environments`."""

from __future__ import annotations

from typing import Any

from quart import Blueprint

from clavitor_fleet.environments import service
from clavitor_fleet.environments.models import RETENTION_LIMITS
from clavitor_fleet.environments.schemas import (
    CreateEnvironment,
    EnvironmentOut,
    EnvironmentPage,
    JarRetention,
    UpdateEnvironment,
)
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id, nothing
from clavitor_fleet.lists import PAGE, page_of
from clavitor_host.api import Reply, Request, Resource, caller, created, endpoint

blueprint = Blueprint("environments", __name__)

PATH = "/api/v1/environments"


@blueprint.post(PATH)
@endpoint(
    action="fleet.write",
    resource="environments",
    summary="Create an environment",
    tag="environments",
    body=CreateEnvironment,
    reply=EnvironmentOut,
    status=201,
    errors=(409, 422),
)
async def create_environment(request: Request, body: CreateEnvironment) -> Reply:
    """A 403 `license_cap_reached`: the license allows no more; 422: not a retention as long as this."""
    await _authorize(request, body.id or "")
    given = {column: getattr(body, column) for column in RETENTION_LIMITS}
    made = await service.create_environment(
        request.host,
        name=body.name,
        environment_id=body.id,
        retention={column: value for column, value in given.items() if value is not None},
        requested_by=caller(request),
    )
    return created(EnvironmentOut.model_validate(made), f"{PATH}/{made.id}")


@blueprint.get(PATH)
@endpoint(
    action="fleet.read",
    resource="environments",
    summary="List environments",
    tag="environments",
    reply=EnvironmentPage,
    parameters=PAGE,
)
async def list_environments(request: Request) -> EnvironmentPage:
    found, cursor = await service.list_environments(request.host, page_of(request), only=caller(request).environment_id)
    return EnvironmentPage(environments=[EnvironmentOut.model_validate(one) for one in found], next_cursor=cursor)


@blueprint.get(f"{PATH}/<environment_id>")
@endpoint(
    action="fleet.read",
    resource="environments",
    summary="Read an environment",
    tag="environments",
    reply=EnvironmentOut,
    errors=(404,),
)
async def get_environment(request: Request, environment_id: str) -> EnvironmentOut:
    known = await _reached(request, environment_id)
    return EnvironmentOut.model_validate(await service.get_environment(request.host, known))


@blueprint.put(f"{PATH}/<environment_id>")
@endpoint(
    action="fleet.write",
    resource="environments",
    summary="Change an environment",
    tag="environments",
    body=UpdateEnvironment,
    reply=EnvironmentOut,
    errors=(404, 409, 422),
)
async def update_environment(request: Request, body: UpdateEnvironment, environment_id: str) -> EnvironmentOut:
    """What is null or not given stays. A retention above what the license allows is a 422; a shorter one than now
    always passes."""
    return await _update(request, environment_id, body.model_dump(exclude_none=True))


@blueprint.put("/api/v1/admin/environments/<environment_id>/jar-retention")
@endpoint(
    action="fleet.write",
    resource="environments",
    summary="Set how many artifacts of an app are kept",
    tag="environments",
    body=JarRetention,
    reply=EnvironmentOut,
    errors=(404, 409, 422),
)
async def set_jar_retention(request: Request, body: JarRetention, environment_id: str) -> EnvironmentOut:
    """The newest of each app are kept, and those that a deployment uses."""
    return await _update(request, environment_id, {"jar_retention_count": body.jar_retention_count})


@blueprint.delete(f"{PATH}/<environment_id>")
@endpoint(
    action="fleet.write",
    resource="environments",
    summary="Delete an environment that nothing uses",
    tag="environments",
    status=204,
    errors=(404, 409),
)
async def delete_environment(request: Request, environment_id: str) -> Reply:
    """The tokens that reach only this environment end with it."""
    known = await _reached(request, environment_id, write=True)
    await service.delete_environment(request.host, known, requested_by=caller(request))
    return nothing()


async def _update(request: Request, environment_id: str, changes: dict[str, Any]) -> EnvironmentOut:
    known = await _reached(request, environment_id, write=True)
    changed = await service.update_environment(request.host, known, changes=changes, requested_by=caller(request))
    return EnvironmentOut.model_validate(changed)


async def _reached(request: Request, environment_id: str, *, write: bool = False) -> str:
    """Return the id, when the caller reaches that environment."""
    known = known_id(environment_id, not_found("environment"))
    await _authorize(request, known, write=write)
    return known


async def _authorize(request: Request, environment_id: str, *, write: bool = True) -> None:
    resource = Resource("environments", environment_id, environment_id)
    await request.host.authorize(caller(request), "fleet.write" if write else "fleet.read", resource)
