"""`/api/docs`: the OpenAPI document as a page; made here, so that it needs no script and nothing from elsewhere."""

from __future__ import annotations

import quart
from quart import Blueprint, current_app

from clavitor_host.web.openapi import document
from clavitor_host.web.pages.page import Visit, page

blueprint = Blueprint("docs", __name__)


@blueprint.get("/api/docs")
@page(action=None)
async def docs(visit: Visit) -> quart.Response:
    from clavitor_host.web.pages import reference

    described = document(current_app, visit.host)
    return visit.render("docs.html", info=described["info"], **reference.parts(described))
