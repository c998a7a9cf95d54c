"""How one gets in and out: `/`, the setup link, the login and the logout."""

from __future__ import annotations

from urllib.parse import urlencode

import quart
from quart import Blueprint

from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.identity.login import log_in
from clavitor_host.identity.sessions import clear_cookie, end_session
from clavitor_host.identity.setup import check_setup_token, set_up
from clavitor_host.identity.users import list_users
from clavitor_host.web.pages.forms import HOME, local_path, passwords_differ
from clavitor_host.web.pages.page import Visit, page

blueprint = Blueprint("entrance", __name__)

OIDC_LOGIN = "/login/oidc"


@blueprint.get("/")
@page(action=None)
async def root(visit: Visit) -> quart.Response:
    if visit.visitor is not None:
        return visit.redirect(HOME)
    if await _has_users(visit.host):
        return visit.redirect("/login")
    return visit.render("welcome.html")


@blueprint.get("/setup")
@page(action=None)
async def setup(visit: Visit) -> quart.Response:
    token = visit.request.query.get("token")
    if token is None:
        return visit.redirect("/")
    await check_setup_token(visit.host, token)
    return _setup_form(visit, token)


async def _setup_again(visit: Visit) -> quart.Response:
    assert visit.error is not None
    if visit.error.code in ("already_set_up", "setup_token"):
        raise visit.error
    return _setup_form(visit, (await visit.form()).get("token", ""))


def _setup_form(visit: Visit, token: str) -> quart.Response:
    response = visit.render("setup.html", token=token)
    # The address holds the token, so forms may say which site they come from, and no more.
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


@blueprint.post("/setup")
@page(action=None, again=_setup_again)
async def finish_setup(visit: Visit) -> quart.Response:
    form = await visit.form()
    password = form.get("password", "")
    if password != form.get("repeat_password", ""):
        raise passwords_differ()
    _, session = await set_up(visit.host, visit.request, form.get("token", ""), form.get("name", ""), password)
    return visit.redirect(HOME, done="welcome", cookie=session.set_cookie)


@blueprint.get("/login")
@page(action=None)
async def login(visit: Visit) -> quart.Response:
    target = local_path(visit.request.query.get("next"))
    if visit.visitor is not None:
        return visit.redirect(target)
    if not await _has_users(visit.host):
        return visit.redirect("/")
    return _login_form(visit, target)


async def _login_again(visit: Visit) -> quart.Response:
    return _login_form(visit, local_path((await visit.form()).get("next")))


def _login_form(visit: Visit, target: str) -> quart.Response:
    config = visit.host.config.oidc
    oidc = None
    if config is not None:
        oidc = {"label": config.label, "path": f"{OIDC_LOGIN}?{urlencode({'next': target})}"}
    return visit.render("login.html", next=target, oidc=oidc)


@blueprint.post("/login")
@page(action=None, again=_login_again)
async def finish_login(visit: Visit) -> quart.Response:
    form = await visit.form()
    _, session = await log_in(visit.host, visit.request, form.get("name", ""), form.get("password", ""))
    return visit.redirect(local_path(form.get("next")), cookie=session.set_cookie)


@blueprint.post("/logout")
@page(action="me")
async def logout(visit: Visit) -> quart.Response:
    by = visit.identity
    assert by.user_id is not None and by.session_id is not None  # `page` lets sessions of users in only
    try:
        await end_session(visit.host, by.user_id, by.session_id, requested_by=by)
    except Problem as error:
        if error.status != 404:  # it has ended meanwhile
            raise
    return visit.redirect("/login", done="logged-out", cookie=clear_cookie())


async def _has_users(host: Host) -> bool:
    return bool((await list_users(host, limit=1))[0])
