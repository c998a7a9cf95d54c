"""`/admin/users`: who may log in, and as what."""

from __future__ import annotations

from urllib.parse import urlencode

import quart
from quart import Blueprint

from clavitor_host.errors import invalid_field
from clavitor_host.identity import users
from clavitor_host.identity.caller import known_id, query_id
from clavitor_host.identity.models import Role
from clavitor_host.web.pages.page import Visit, page

blueprint = Blueprint("users", __name__)

PAGE = 100


@blueprint.get("/admin/users")
@page(action="users.read")
async def show_users(visit: Visit) -> quart.Response:
    after = query_id(visit.request, "after")
    found, more = await users.list_users(visit.host, after=after, limit=PAGE)
    next_page = f"/admin/users?{urlencode({'after': found[-1].id})}" if more else None
    return visit.render("users.html", users=found, after=after, next=next_page)


@blueprint.get("/admin/users/new")
@page(action="users.write")
async def new_user(visit: Visit) -> quart.Response:
    return visit.render("user_new.html")


@blueprint.post("/admin/users/new")
@page(action="users.write", again=new_user)
async def create_user(visit: Visit) -> quart.Response:
    form = await visit.form()
    await users.create_user(
        visit.host,
        name=form.get("name", ""),
        role=_role(form.get("role", "")),
        password=form.get("password", ""),
        requested_by=visit.identity,
    )
    return visit.redirect("/admin/users", done="user-created")


@blueprint.get("/admin/users/<user_id>")
@page(action="users.read")
async def show_user(visit: Visit, user_id: str) -> quart.Response:
    return visit.render("user.html", user=await users.get_user(visit.host, _known(user_id)))


@blueprint.post("/admin/users/<user_id>")
@page(action="users.write", again=show_user)
async def change_user(visit: Visit, user_id: str) -> quart.Response:
    form = await visit.form()
    name, role = form.get("name", ""), _role(form.get("role", ""))
    await users.update_user(visit.host, _known(user_id), name=name, role=role, requested_by=visit.identity)
    return visit.redirect(f"/admin/users/{user_id}", done="user-changed")


@blueprint.post("/admin/users/<user_id>/disabled")
@page(action="users.write", again=show_user)
async def disable_user(visit: Visit, user_id: str) -> quart.Response:
    disabled = (await visit.form()).get("disabled") == "yes"
    await users.set_disabled(visit.host, _known(user_id), disabled, requested_by=visit.identity)
    return visit.redirect(f"/admin/users/{user_id}", done="user-disabled" if disabled else "user-enabled")


@blueprint.post("/admin/users/<user_id>/password")
@page(action="users.write", again=show_user)
async def set_password(visit: Visit, user_id: str) -> quart.Response:
    password = (await visit.form()).get("password", "")
    await users.set_password(visit.host, _known(user_id), password, requested_by=visit.identity)
    return visit.redirect(f"/admin/users/{user_id}", done="password-set")


@blueprint.post("/admin/users/<user_id>/delete")
@page(action="users.write", again=show_user)
async def delete_user(visit: Visit, user_id: str) -> quart.Response:
    if (await visit.form()).get("sure") != "yes":
        raise invalid_field("sure", "the box to be ticked")
    await users.delete_user(visit.host, _known(user_id), requested_by=visit.identity)
    return visit.redirect("/admin/users", done="user-deleted")


def _known(user_id: str) -> str:
    return known_id(user_id, users.user_not_found())


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise invalid_field("role", "ADMIN, OPERATOR or VIEWER") from None
