"""The app that a body names, for what is made in an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_fleet.apps.service import get_app
from clavitor_fleet.errors import not_found, unknown_reference
from clavitor_fleet.http import known_id
from clavitor_host.api import Problem, Request, Resource, caller

if TYPE_CHECKING:
    from clavitor_fleet.apps.models import App


async def named_app(request: Request, app_id: str, kind: str, action: str = "fleet.write") -> App:
    """Return the app for which a caller does `action` to a thing of some kind, such as `deployments`.

    Raises a 422 for an app that the caller does not reach, as for one that is not there; and a 403.
    """
    by = caller(request)
    try:
        app = await get_app(request.host, known_id(app_id, not_found("app")))
    except Problem as error:
        if error.status != 404:
            raise
        raise unknown_reference("app_id", "app") from error
    if by.environment_id not in (None, app.environment_id):
        raise unknown_reference("app_id", "app")
    await request.host.authorize(by, action, Resource(kind, None, app.environment_id))
    return app
