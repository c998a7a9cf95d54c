"""`/api/v1/deployments`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quart import Blueprint

from clavitor_fleet.apps.models import Placed
from clavitor_fleet.apps.named import named_app
from clavitor_fleet.deployments import service, store
from clavitor_fleet.deployments.models import STATUSES, Size
from clavitor_fleet.deployments.places import live_by_deployment
from clavitor_fleet.deployments.schemas import ChangeDeployment, CreateDeployment, DeploymentOut, DeploymentPage
from clavitor_fleet.deployments.store import Only
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id, nothing
from clavitor_fleet.lists import PAGE, page_of, query_id
from clavitor_host.api import Parameter, Reply, Request, Resource, caller, created, endpoint, invalid_field

if TYPE_CHECKING:
    from clavitor_fleet.deployments.models import Deployment
    from clavitor_host.api import Host

blueprint = Blueprint("deployments", __name__)

PATH = "/api/v1/deployments"


@blueprint.post(PATH)
@endpoint(
    action="fleet.write",
    resource="deployments",
    summary="Deploy an app",
    tag="deployments",
    body=CreateDeployment,
    reply=DeploymentOut,
    status=201,
    errors=(422,),
)
async def create_deployment(request: Request, body: CreateDeployment) -> Reply:
    """Also a 201 when the license allows no more or compute is not set: then `status` is FAILED, and `failure` says
    why. Agents attach by registering; it is RUNNING once as many are LIVE as it has replicas."""
    app = await named_app(request, body.app_id, "deployments")
    made = await service.create_deployment(
        request.host,
        app_id=body.app_id,
        artifact_id=body.artifact_id,
        size=Size(body.replicas, body.cpu_millis, body.memory_mb),
        requested_by=caller(request),
    )
    (shown,) = await _shown(request.host, [Placed(made, app.environment_id)])
    return created(shown, f"{PATH}/{made.id}")


@blueprint.get(PATH)
@endpoint(
    action="fleet.read",
    resource="deployments",
    summary="List deployments",
    tag="deployments",
    reply=DeploymentPage,
    parameters=(
        Parameter("app_id", "Only the deployments of this app."),
        Parameter("status", "Only those in this state.", enum=STATUSES),
        *PAGE,
    ),
)
async def list_deployments(request: Request) -> DeploymentPage:
    only = Only(caller(request).environment_id, query_id(request, "app_id"), request.query.get("status"))
    if only.status not in (None, *STATUSES):
        raise invalid_field("status", f"one of {', '.join(STATUSES)}")
    found, cursor = await store.list_deployments(request.host, page_of(request), only)
    return DeploymentPage(deployments=await _shown(request.host, found), next_cursor=cursor)


@blueprint.get(f"{PATH}/<deployment_id>")
@endpoint(
    action="fleet.read",
    resource="deployments",
    summary="Read a deployment",
    tag="deployments",
    reply=DeploymentOut,
    errors=(404,),
)
async def get_deployment(request: Request, deployment_id: str) -> DeploymentOut:
    (shown,) = await _shown(request.host, [await reached_deployment(request, deployment_id)])
    return shown


@blueprint.put(f"{PATH}/<deployment_id>")
@endpoint(
    action="fleet.write",
    resource="deployments",
    summary="Scale a deployment, or have it run another artifact",
    tag="deployments",
    body=ChangeDeployment,
    reply=DeploymentOut,
    errors=(404, 409, 422),
)
async def change_deployment(request: Request, body: ChangeDeployment, deployment_id: str) -> DeploymentOut:
    """What grows is checked as for a new deployment; a 403 `license_cap_reached` leaves it as it is. A runtime is told;
    agents that somebody else starts learn of another artifact when they register."""
    known = await reached_deployment(request, deployment_id, write=True)
    changes = body.model_dump(exclude_none=True)
    changed = await service.change_deployment(request.host, known.thing, changes=changes, requested_by=caller(request))
    (shown,) = await _shown(request.host, [known._replace(thing=changed)])
    return shown


@blueprint.post(f"{PATH}/<deployment_id>/stop")
@endpoint(
    action="fleet.write",
    resource="deployments",
    summary="Stop a deployment",
    tag="deployments",
    reply=DeploymentOut,
    errors=(404,),
)
async def stop_deployment(request: Request, deployment_id: str) -> DeploymentOut:
    """It holds nothing from then on. One that has ended stays as it is."""
    known = await reached_deployment(request, deployment_id, write=True)
    stopped = await service.stop_deployment(request.host, known.thing.id, requested_by=caller(request))
    (shown,) = await _shown(request.host, [known._replace(thing=stopped)])
    return shown


@blueprint.delete(f"{PATH}/<deployment_id>")
@endpoint(
    action="fleet.write",
    resource="deployments",
    summary="Forget a deployment that has ended",
    tag="deployments",
    status=204,
    errors=(404, 409),
)
async def delete_deployment(request: Request, deployment_id: str) -> Reply:
    known = await reached_deployment(request, deployment_id, write=True)
    await service.delete_deployment(request.host, known.thing.id, requested_by=caller(request))
    return nothing()


async def reached_deployment(request: Request, deployment_id: str, *, write: bool = False) -> Placed[Deployment]:
    """Return a deployment that the caller reaches. Raises a 404, also for one in an environment out of reach."""
    missing = not_found("deployment")
    found = await store.get_deployment(request.host, known_id(deployment_id, missing))
    if caller(request).environment_id not in (None, found.environment_id):
        raise missing
    resource = Resource("deployments", found.thing.id, found.environment_id)
    await request.host.authorize(caller(request), "fleet.write" if write else "fleet.read", resource)
    return found


async def _shown(host: Host, found: Sequence[Placed[Deployment]]) -> list[DeploymentOut]:
    live = await live_by_deployment(host, host.db, [one.thing.id for one in found])
    return [
        DeploymentOut(
            **{name: value for name, value in one.thing._asdict().items() if name in DeploymentOut.model_fields},
            environment_id=one.environment_id,
            ready_replicas=live.get(one.thing.id, 0),
        )
        for one in found
    ]
