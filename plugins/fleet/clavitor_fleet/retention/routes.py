"""`/api/v1/admin/retention`."""

from __future__ import annotations

from quart import Blueprint

from clavitor_fleet.retention import service
from clavitor_fleet.retention.schemas import RetentionOut
from clavitor_host.api import Request, caller, endpoint

blueprint = Blueprint("retention", __name__)


@blueprint.get("/api/v1/admin/retention")
@endpoint(
    action="fleet.read",
    resource="retention",
    summary="Read for how long telemetry is kept",
    tag="telemetry",
    reply=RetentionOut,
)
async def get_retention(request: Request) -> RetentionOut:
    """By environment and kind of telemetry: what is configured, the cap, what is to hold, and what was applied."""
    return RetentionOut.model_validate(await service.report(request.host, only=caller(request).environment_id))
