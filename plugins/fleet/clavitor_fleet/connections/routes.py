"""`/api/v1/outbound-connections`. They belong to no environment: a token that is tied to one does not reach them."""

from __future__ import annotations

from quart import Blueprint

from clavitor_fleet.connections import outbox, service, trial
from clavitor_fleet.connections.models import DELIVERY_STATES, Connection
from clavitor_fleet.connections.schemas import (
    ConnectionOut,
    ConnectionPage,
    CreateConnection,
    CreatedConnection,
    DeliveryOut,
    DeliveryPage,
    TrialResult,
    UpdateConnection,
)
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id, nothing
from clavitor_fleet.lists import PAGE, page_of
from clavitor_host.api import Parameter, Reply, Request, Resource, Role, caller, created, endpoint, invalid_field

blueprint = Blueprint("connections", __name__)

PATH = "/api/v1/outbound-connections"
KIND = "outbound_connections"
_SEQ = r"^[1-9][0-9]{0,17}$"


@blueprint.post(PATH)
@endpoint(
    action="fleet.write",
    resource=KIND,
    summary="Create an outbound connection",
    tag="connections",
    body=CreateConnection,
    reply=CreatedConnection,
    status=201,
    errors=(409, 422),
)
async def create_connection(request: Request, body: CreateConnection) -> Reply:
    """A 403 `license_cap_reached`: the license allows no more; 422: nothing is sent to such a URL, and why."""
    await request.host.authorize(caller(request), "fleet.write", Resource(KIND, None, ""))
    made, secret = await service.create_connection(
        request.host,
        name=body.name,
        kind=body.kind,
        url=body.url,
        secret=body.secret,
        enabled=body.enabled,
        requested_by=caller(request),
    )
    return created(CreatedConnection.model_validate({**made._asdict(), "secret": secret}), f"{PATH}/{made.id}")


@blueprint.get(PATH)
@endpoint(
    action="fleet.read",
    resource=KIND,
    summary="List outbound connections",
    tag="connections",
    reply=ConnectionPage,
    parameters=PAGE,
)
async def list_connections(request: Request) -> ConnectionPage:
    page = page_of(request)
    if caller(request).environment_id is not None:
        return ConnectionPage(outbound_connections=[], next_cursor=None)
    found, cursor = await service.list_connections(request.host, page)
    shown = [_shown(request, one) for one in found]
    return ConnectionPage(outbound_connections=shown, next_cursor=cursor)


@blueprint.get(f"{PATH}/<connection_id>")
@endpoint(
    action="fleet.read",
    resource=KIND,
    summary="Read an outbound connection",
    tag="connections",
    reply=ConnectionOut,
    errors=(404,),
)
async def get_connection(request: Request, connection_id: str) -> ConnectionOut:
    known = _reached(request, connection_id)
    return _shown(request, await service.get_connection(request.host, known))


@blueprint.put(f"{PATH}/<connection_id>")
@endpoint(
    action="fleet.write",
    resource=KIND,
    summary="Change an outbound connection",
    tag="connections",
    body=UpdateConnection,
    reply=ConnectionOut,
    errors=(404, 409, 422),
)
async def update_connection(request: Request, body: UpdateConnection, connection_id: str) -> ConnectionOut:
    """What is null or not given stays. While it is disabled what is to be sent waits."""
    known = _reached(request, connection_id)
    changes = body.model_dump(exclude_none=True)
    changed = await service.update_connection(request.host, known, changes=changes, requested_by=caller(request))
    return ConnectionOut.model_validate(changed)


@blueprint.delete(f"{PATH}/<connection_id>")
@endpoint(
    action="fleet.write",
    resource=KIND,
    summary="Delete an outbound connection that no alert rule uses",
    tag="connections",
    status=204,
    errors=(404, 409),
)
async def delete_connection(request: Request, connection_id: str) -> Reply:
    """What waits for it is deleted too."""
    known = _reached(request, connection_id)
    await service.delete_connection(request.host, known, requested_by=caller(request))
    return nothing()


@blueprint.post(f"{PATH}/<connection_id>/test")
@endpoint(
    action="fleet.write",
    resource=KIND,
    summary="Send a test event now",
    tag="connections",
    reply=TrialResult,
    errors=(404,),
)
async def test_connection(request: Request, connection_id: str) -> TrialResult:
    """Answers within 10 s what came of it. Also for a connection that is disabled; what waits is not touched."""
    known = _reached(request, connection_id)
    outcome = await trial.try_connection(request.host, known, requested_by=caller(request))
    return TrialResult(
        delivered=outcome.delivered,
        status=outcome.status,
        duration_ms=round(outcome.duration * 1000),
        reason=outcome.reason,
    )


@blueprint.get(f"{PATH}/<connection_id>/deliveries")
@endpoint(
    action="fleet.read",
    resource=KIND,
    summary="List what was and is to be sent",
    tag="connections",
    reply=DeliveryPage,
    parameters=(
        Parameter("state", "Only deliveries in this state.", enum=DELIVERY_STATES),
        PAGE[0],
        Parameter("cursor", "`next_cursor` of the page before.", pattern=_SEQ),
    ),
    errors=(404,),
)
async def list_deliveries(request: Request, connection_id: str) -> DeliveryPage:
    """Newest first: all that waits, and the last hundred that need not be sent any more."""
    known = _reached(request, connection_id)
    state = request.query.get("state")
    if state is not None and state not in DELIVERY_STATES:
        raise invalid_field("state", f"one of {', '.join(DELIVERY_STATES)}")
    page = page_of(request)
    if page.after is not None and not (page.after.isascii() and page.after.isdecimal() and len(page.after) <= 18):
        raise invalid_field("cursor", "next_cursor of the page before")
    await service.get_connection(request.host, known)
    found, cursor = await outbox.list_deliveries(request.host, known, page, state=state)
    return DeliveryPage(deliveries=[DeliveryOut.model_validate(one) for one in found], next_cursor=cursor)


def _shown(request: Request, connection: Connection) -> ConnectionOut:
    """Return what the caller sees of a connection: a URL is often a secret, for those only who may change it."""
    by = caller(request)
    if by.role not in (Role.ADMIN, Role.OPERATOR) or by.scope != "write":
        connection = connection._replace(url=service.hidden(connection.url))
    return ConnectionOut.model_validate(connection)


def _reached(request: Request, connection_id: str) -> str:
    """Return the id, unless the caller reaches no connection. `@endpoint` has authorised the action."""
    known = known_id(connection_id, not_found("outbound_connection"))
    if caller(request).environment_id is not None:
        raise not_found("outbound_connection")
    return known
