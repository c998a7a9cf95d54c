"""`/api/v1/login`, `/api/v1/logout`, `/api/v1/setup` and the OIDC login."""

from __future__ import annotations

from quart import Blueprint

from clavitor_host.endpoint import Parameter, endpoint
from clavitor_host.http import Reply, Request
from clavitor_host.identity import login, oidc, sessions, setup
from clavitor_host.identity.caller import caller, created
from clavitor_host.identity.schemas import LoggedIn, Login, Setup

blueprint = Blueprint("login", __name__)


@blueprint.post("/api/v1/login")
@endpoint(
    action=None,
    summary="Log in with name and password",
    tag="login",
    body=Login,
    reply=LoggedIn,
    errors=(401, 403, 429),
)
async def log_in(request: Request, body: Login) -> Reply:
    """Sets the session cookie. Unknown name, wrong password and disabled user get the same 401."""
    user, session = await login.log_in(request.host, request, body.name, body.password.get_secret_value())
    reply = LoggedIn.of(user, session).model_dump_json().encode()
    return Reply(200, reply, headers={"Set-Cookie": session.set_cookie})


@blueprint.post("/api/v1/logout")
@endpoint(action="me", summary="End the session that asks", tag="login", status=204)
async def log_out(request: Request) -> Reply:
    """With a token there is no session to end, and nothing happens."""
    identity = caller(request)
    if identity.session_id is not None and identity.user_id is not None:
        await sessions.end_session(request.host, identity.user_id, identity.session_id, requested_by=identity)
    return Reply(204, b"", None, {"Set-Cookie": sessions.clear_cookie()})


@blueprint.post("/api/v1/setup")
@endpoint(
    action=None,
    summary="Make the first ADMIN, with the link that the first start printed",
    tag="login",
    body=Setup,
    reply=LoggedIn,
    status=201,
    errors=(403, 409),
)
async def set_up(request: Request, body: Setup) -> Reply:
    """Sets the session cookie. Good only while there is no user."""
    user, session = await setup.set_up(request.host, request, body.token, body.name, body.password.get_secret_value())
    return created(LoggedIn.of(user, session), f"/api/v1/admin/users/{user.id}", {"Set-Cookie": session.set_cookie})


@blueprint.get("/login/oidc")
@endpoint(
    action=None,
    summary="Log in through the identity provider",
    tag="login",
    status=302,
    errors=(400, 404, 502),
    parameters=(Parameter("next", "Path on this server to go to afterwards."),),
)
async def begin_oidc(request: Request) -> Reply:
    return await oidc.begin(request.host, request, request.query.get("next", "/"))


@blueprint.get(oidc.CALLBACK)
@endpoint(
    action=None,
    summary="Where the identity provider sends the browser back to",
    tag="login",
    errors=(400, 401, 403, 404, 502),
    content_types=("text/html",),
    parameters=(
        Parameter("code", "Authorization code."),
        Parameter("state", "As it was sent to the provider."),
        Parameter("iss", "The provider's issuer (RFC 9207)."),
        Parameter("error", "Why the provider refused."),
    ),
)
async def finish_oidc(request: Request) -> Reply:
    return await oidc.finish(request.host, request)
