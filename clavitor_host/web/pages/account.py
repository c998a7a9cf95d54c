"""`/account`: the visitor's own password and sessions."""

from __future__ import annotations

import quart
from quart import Blueprint

from clavitor_host.errors import Problem, problem
from clavitor_host.identity import sessions
from clavitor_host.identity.caller import known_id
from clavitor_host.identity.login import change_password
from clavitor_host.identity.users import get_user
from clavitor_host.web.pages.forms import passwords_differ
from clavitor_host.web.pages.page import Visit, page

blueprint = Blueprint("account", __name__)


@blueprint.get("/account")
@page(action="me")
async def account(visit: Visit) -> quart.Response:
    user_id = _user_id(visit)
    user = await get_user(visit.host, user_id)
    return visit.render("account.html", user=user, sessions=await sessions.list_sessions(visit.host, user_id))


@blueprint.post("/account/password")
@page(action="me.write", again=account)
async def new_password(visit: Visit) -> quart.Response:
    form = await visit.form()
    password = form.get("new_password", "")
    if password != form.get("repeat_password", ""):
        raise passwords_differ()
    current = form.get("current_password", "")
    try:
        session = await change_password(visit.host, visit.request, visit.identity, current, password)
    except Problem as error:
        if error.code == "wrong_password":
            wrong = {"field": "current_password"}
            raise Problem(403, error.code, "This is not your current password.", extra=wrong) from None
        raise
    cookie = session.set_cookie if session else None
    return visit.redirect("/account", done="password-changed", cookie=cookie)


@blueprint.post("/account/sessions/<session_id>/end")
@page(action="me.write")
async def end_session(visit: Visit, session_id: str) -> quart.Response:
    known = known_id(session_id, problem(404, "session_not_found", "There is no such session."))
    await sessions.end_session(visit.host, _user_id(visit), known, requested_by=visit.identity)
    return visit.redirect("/account", done="session-ended")


@blueprint.post("/account/sessions/end")
@page(action="me.write")
async def end_other_sessions(visit: Visit) -> quart.Response:
    user_id = _user_id(visit)
    for session in await sessions.list_sessions(visit.host, user_id):
        if session.id != visit.identity.session_id:
            await sessions.end_session(visit.host, user_id, session.id, requested_by=visit.identity)
    return visit.redirect("/account", done="sessions-ended")


def _user_id(visit: Visit) -> str:
    assert visit.identity.user_id is not None  # `page` lets sessions of users in only
    return visit.identity.user_id
