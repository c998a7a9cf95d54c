"""Static files: read once, served under a name that carries their content's hash, so that browsers keep them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

import quart
from quart import Blueprint

from clavitor_host.errors import problem
from clavitor_host.web.pages.render import error_page

blueprint = Blueprint("static", __name__)

_TYPES = MappingProxyType({"css": "text/css; charset=utf-8", "svg": "image/svg+xml"})
_FOR_EVER = "public, max-age=31536000, immutable"


class Asset(NamedTuple):
    """One static file. `url` changes whenever `content` does."""

    url: str
    content: bytes
    content_type: str


@cache
def assets() -> Mapping[str, Asset]:
    """Return the static files by name."""
    found = {}
    for file in files(__package__).joinpath("static").iterdir():
        stem, _, suffix = file.name.rpartition(".")
        if suffix in _TYPES:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            found[file.name] = Asset(f"/static/{stem}.{digest}.{suffix}", content, _TYPES[suffix])
    return MappingProxyType(found)


@cache
def _by_url() -> Mapping[str, Asset]:
    return {asset.url: asset for asset in assets().values()}


@blueprint.get("/static/<name>")
async def static(name: str) -> quart.Response:
    asset = _by_url().get(f"/static/{name}")
    if asset is None:
        return error_page(problem(404, "not_found", "There is no such file."))
    response = quart.Response(asset.content, content_type=asset.content_type)
    response.headers["Cache-Control"] = _FOR_EVER
    return response
