"""Small things that the routes share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel

from clavitor_host.errors import Problem, invalid_field
from clavitor_host.http import Reply
from clavitor_host.identity.models import Identity

if TYPE_CHECKING:
    from clavitor_host.http import Request

ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_ID = re.compile(ID_PATTERN)


def caller(request: Request) -> Identity:
    """Return who asks, in a route that has an action."""
    assert request.identity is not None
    return request.identity


def user_id_of(request: Request) -> str:
    """Return the user who asks. Raises a 403 for a caller that is no user."""
    identity = caller(request)
    if identity.user_id is None:
        raise Problem(403, "no_user", "This credential does not belong to a user.")
    return identity.user_id


def known_id(text: str, otherwise: Problem) -> str:
    """Return an id from a path, or raise `otherwise`: what is no id of ours names nothing."""
    if _ID.fullmatch(text) is None:
        raise otherwise
    return text


def query_id(request: Request, name: str) -> str | None:
    """Return an id from the query. Raises a 400 for what is none."""
    text = request.query.get(name)
    return None if text is None else known_id(text, invalid_field(name, "an id"))


def created(body: BaseModel, location: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a 201 with its Location."""
    return Reply(201, body.model_dump_json().encode(), headers={"Location": location, **(headers or {})})
