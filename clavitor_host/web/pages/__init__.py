"""The pages that people use in a browser: server-rendered HTML, plain forms, no script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Blueprint

from clavitor_host.web import docs_page
from clavitor_host.web.pages import account, assets, audit, entrance, overview, plugins, tokens, users

if TYPE_CHECKING:
    from clavitor_host.host import Host


def blueprint(host: Host) -> Blueprint:
    """Return every page of the host, with its static files."""
    made = Blueprint("pages", __name__)
    for part in (entrance, overview, users, tokens, audit, plugins, account, docs_page, assets):
        made.register_blueprint(part.blueprint)
    return made
