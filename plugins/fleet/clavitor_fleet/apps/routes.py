"""`/api/v1/apps`."""

from __future__ import annotations

from quart import Blueprint

from clavitor_fleet.apps import service
from clavitor_fleet.apps.models import App
from clavitor_fleet.apps.schemas import AppOut, AppPage, CreateApp, UpdateApp
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id, nothing
from clavitor_fleet.lists import PAGE, page_of, query_id
from clavitor_host.api import Parameter, Reply, Request, Resource, caller, created, endpoint

blueprint = Blueprint("apps", __name__)

PATH = "/api/v1/apps"


@blueprint.post(PATH)
@endpoint(
    action="fleet.write",
    resource="apps",
    summary="Create an app",
    tag="apps",
    body=CreateApp,
    reply=AppOut,
    status=201,
    errors=(409, 422),
)
async def create_app(request: Request, body: CreateApp) -> Reply:
    """A 403 `license_cap_reached`: the license allows no more."""
    await _authorize(request, None, body.environment_id, write=True)
    made = await service.create_app(
        request.host, environment_id=body.environment_id, name=body.name, requested_by=caller(request)
    )
    return created(AppOut.model_validate(made), f"{PATH}/{made.id}")


@blueprint.get(PATH)
@endpoint(
    action="fleet.read",
    resource="apps",
    summary="List apps",
    tag="apps",
    reply=AppPage,
    parameters=(Parameter("environment_id", "Only the apps of this environment."), *PAGE),
)
async def list_apps(request: Request) -> AppPage:
    wanted = query_id(request, "environment_id")
    only = caller(request).environment_id
    if wanted is not None:
        await _authorize(request, None, wanted)
    found, cursor = await service.list_apps(request.host, page_of(request), environment_id=wanted or only)
    return AppPage(apps=[AppOut.model_validate(one) for one in found], next_cursor=cursor)


@blueprint.get(f"{PATH}/<app_id>")
@endpoint(action="fleet.read", resource="apps", summary="Read an app", tag="apps", reply=AppOut, errors=(404,))
async def get_app(request: Request, app_id: str) -> AppOut:
    return AppOut.model_validate(await reached_app(request, app_id))


@blueprint.put(f"{PATH}/<app_id>")
@endpoint(
    action="fleet.write",
    resource="apps",
    summary="Rename an app",
    tag="apps",
    body=UpdateApp,
    reply=AppOut,
    errors=(404, 409),
)
async def update_app(request: Request, body: UpdateApp, app_id: str) -> AppOut:
    app = await reached_app(request, app_id, write=True)
    changed = await service.rename_app(request.host, app.id, body.name, requested_by=caller(request))
    return AppOut.model_validate(changed)


@blueprint.delete(f"{PATH}/<app_id>")
@endpoint(
    action="fleet.write",
    resource="apps",
    summary="Delete an app that nothing uses",
    tag="apps",
    status=204,
    errors=(404, 409),
)
async def delete_app(request: Request, app_id: str) -> Reply:
    """Its artifacts are deleted, its deployments stopped and its agents gone first."""
    app = await reached_app(request, app_id, write=True)
    await service.delete_app(request.host, app.id, requested_by=caller(request))
    return nothing()


async def reached_app(request: Request, app_id: str, *, write: bool = False) -> App:
    """Return an app that the caller reaches. Raises a 404, also for one in an environment out of reach."""
    app = await service.get_app(request.host, known_id(app_id, not_found("app")))
    only = caller(request).environment_id
    if only not in (None, app.environment_id):
        raise not_found("app")
    await _authorize(request, app.id, app.environment_id, write=write)
    return app


async def _authorize(request: Request, app_id: str | None, environment_id: str, *, write: bool = False) -> None:
    resource = Resource("apps", app_id, environment_id)
    await request.host.authorize(caller(request), "fleet.write" if write else "fleet.read", resource)
