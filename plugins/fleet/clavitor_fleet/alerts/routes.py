"""`/api/v1/alert-rules` and `/api/v1/alerts`."""

from __future__ import annotations

from typing import Any, Final

from quart import Blueprint

from clavitor_fleet.alerts import service
from clavitor_fleet.alerts.models import Alert, State
from clavitor_fleet.alerts.schemas import (
    AlertPage,
    CreateRule,
    RuleOut,
    RulePage,
    UpdateRule,
    alert_out,
    rule_out,
)
from clavitor_fleet.apps.named import named_app
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id, nothing
from clavitor_fleet.lists import PAGE, page_of, query_id
from clavitor_host.api import Parameter, Reply, Request, Resource, caller, created, endpoint, invalid_field

blueprint = Blueprint("alerts", __name__)

PATH = "/api/v1/alert-rules"
KIND = "alert_rules"
ACTIVE: Final[tuple[State, ...]] = ("pending", "firing")
_IN_ENVIRONMENT = Parameter("environment_id", "Only the rules of this environment.")


@blueprint.post(PATH)
@endpoint(
    action="fleet.write",
    resource=KIND,
    summary="Create an alert rule",
    tag="alerts",
    body=CreateRule,
    reply=RuleOut,
    status=201,
    errors=(409, 422),
)
async def create_rule(request: Request, body: CreateRule) -> Reply:
    """A 403 `license_cap_reached`: the license allows no more; 422: something that it names is not there."""
    environment_id = body.environment_id
    if environment_id is None and body.app_id is not None:
        environment_id = (await named_app(request, body.app_id, KIND)).environment_id
    await _authorize(request, None, environment_id, write=True)
    made = await service.create_rule(request.host, _values(body.model_dump()), requested_by=caller(request))
    return created(rule_out(made), f"{PATH}/{made.rule.id}")


@blueprint.get(PATH)
@endpoint(
    action="fleet.read",
    resource=KIND,
    summary="List alert rules",
    tag="alerts",
    reply=RulePage,
    parameters=(_IN_ENVIRONMENT, Parameter("app_id", "Only the rules of this app."), *PAGE),
)
async def list_rules(request: Request) -> RulePage:
    environment_id = await _wanted(request)
    app_id = query_id(request, "app_id")
    page = page_of(request)
    found, cursor = await service.list_rules(request.host, page, environment_id=environment_id, app_id=app_id)
    return RulePage(alert_rules=[rule_out(one) for one in found], next_cursor=cursor)


@blueprint.get(f"{PATH}/<rule_id>")
@endpoint(action="fleet.read", resource=KIND, summary="Read an alert rule", tag="alerts", reply=RuleOut, errors=(404,))
async def get_rule(request: Request, rule_id: str) -> RuleOut:
    return rule_out(await _reached(request, rule_id))


@blueprint.put(f"{PATH}/<rule_id>")
@endpoint(
    action="fleet.write",
    resource=KIND,
    summary="Change an alert rule",
    tag="alerts",
    body=UpdateRule,
    reply=RuleOut,
    errors=(404, 409, 422),
)
async def update_rule(request: Request, body: UpdateRule, rule_id: str) -> RuleOut:
    """What is null or not given stays. A rule that is changed in what it says begins anew; one that fires is resolved,
    as when it is disabled."""
    alert = await _reached(request, rule_id, write=True)
    changes = _values(body.model_dump(exclude_none=True))
    return rule_out(await service.update_rule(request.host, alert.rule.id, changes, requested_by=caller(request)))


@blueprint.delete(f"{PATH}/<rule_id>")
@endpoint(
    action="fleet.write",
    resource=KIND,
    summary="Delete an alert rule",
    tag="alerts",
    status=204,
    errors=(404,),
)
async def delete_rule(request: Request, rule_id: str) -> Reply:
    """One that fires is resolved by it."""
    alert = await _reached(request, rule_id, write=True)
    await service.delete_rule(request.host, alert.rule.id, requested_by=caller(request))
    return nothing()


@blueprint.get("/api/v1/alerts")
@endpoint(
    action="fleet.read",
    resource="alerts",
    summary="List the alert rules that are pending or fire",
    tag="alerts",
    reply=AlertPage,
    parameters=(_IN_ENVIRONMENT, Parameter("state", "Only rules in this state.", enum=ACTIVE), *PAGE),
)
async def list_alerts(request: Request) -> AlertPage:
    environment_id = await _wanted(request)
    state = request.query.get("state")
    if state is not None and state not in ACTIVE:
        raise invalid_field("state", f"one of {', '.join(ACTIVE)}")
    found, cursor = await service.list_alerts(
        request.host, page_of(request), environment_id=environment_id, state=state
    )
    return AlertPage(alerts=[alert_out(one) for one in found], next_cursor=cursor)


async def _wanted(request: Request) -> str | None:
    """Return the environment whose rules are asked for, None for all that there are."""
    wanted = query_id(request, "environment_id")
    if wanted is not None:
        await _authorize(request, None, wanted)
    return wanted or caller(request).environment_id


async def _reached(request: Request, rule_id: str, *, write: bool = False) -> Alert:
    """Return a rule that the caller reaches. Raises a 404, also for one that looks beyond the caller's environment."""
    alert = await service.get_rule(request.host, known_id(rule_id, not_found("alert_rule")))
    if caller(request).environment_id not in (None, alert.rule.environment_id):
        raise not_found("alert_rule")
    await _authorize(request, alert.rule.id, alert.rule.environment_id, write=write)
    return alert


async def _authorize(request: Request, rule_id: str | None, environment_id: str | None, *, write: bool = False) -> None:
    resource = Resource(KIND, rule_id, environment_id or "")
    await request.host.authorize(caller(request), "fleet.write" if write else "fleet.read", resource)


def _values(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body's members under the names of `Rule`. An empty connection is none."""
    renamed = {"window": "window_s", "for_": "for_s"}
    values = {renamed.get(name, name): value for name, value in body.items()}
    if values.get("outbound_connection_id") == "":
        values["outbound_connection_id"] = None
    return values
