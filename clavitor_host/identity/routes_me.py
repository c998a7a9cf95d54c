"""`/api/v1/me`: the caller, their password and their sessions."""

from __future__ import annotations

from quart import Blueprint

from clavitor_host.endpoint import endpoint
from clavitor_host.errors import problem
from clavitor_host.http import Reply, Request
from clavitor_host.identity import login, sessions, users
from clavitor_host.identity.caller import caller, known_id, user_id_of
from clavitor_host.identity.csrf import csrf_token
from clavitor_host.identity.schemas import ChangePassword, Me, Renewed, SessionOut, SessionPage, UserOut

blueprint = Blueprint("me", __name__)


@blueprint.get("/api/v1/me")
@endpoint(action="me", summary="Who you are", tag="me", reply=Me)
async def get_me(request: Request) -> Me:
    identity = caller(request)
    user = None if identity.user_id is None else await users.get_user(request.host, identity.user_id)
    cookie = sessions.session_cookie(request) if identity.via == "session" else None
    return Me(
        kind=identity.kind,
        actor=identity.actor,
        role=identity.role,
        scope=identity.scope,
        environment_id=identity.environment_id,
        via=identity.via,
        token_id=identity.token_id,
        session_id=identity.session_id,
        csrf_token=csrf_token(cookie) if cookie else None,
        user=None if user is None else UserOut.of(user),
    )


@blueprint.patch("/api/v1/me")
@endpoint(
    action="me.write", summary="Change your password", tag="me", body=ChangePassword, reply=Renewed, errors=(409, 429)
)
async def change_password(request: Request, body: ChangePassword) -> Reply:
    """Ends all your sessions. One that asks gets a new cookie and CSRF token."""
    session = await login.change_password(
        request.host,
        request,
        caller(request),
        body.current_password.get_secret_value(),
        body.new_password.get_secret_value(),
    )
    reply = Renewed(csrf_token=session.csrf_token if session else None)
    headers = {"Set-Cookie": session.set_cookie} if session else {}
    return Reply(200, reply.model_dump_json().encode(), headers=headers)


@blueprint.get("/api/v1/me/sessions")
@endpoint(action="me", summary="List your sessions, newest first", tag="me", reply=SessionPage)
async def list_sessions(request: Request) -> SessionPage:
    found = await sessions.list_sessions(request.host, user_id_of(request))
    return SessionPage(sessions=[SessionOut.of(session, caller(request).session_id) for session in found])


@blueprint.delete("/api/v1/me/sessions")
@endpoint(action="me.write", summary="End all your sessions", tag="me", status=204)
async def end_sessions(request: Request) -> Reply:
    await sessions.end_sessions(request.host, user_id_of(request), requested_by=caller(request))
    return Reply(204, b"", None)


@blueprint.delete("/api/v1/me/sessions/<session_id>")
@endpoint(action="me.write", summary="End one of your sessions", tag="me", status=204)
async def end_session(request: Request, session_id: str) -> Reply:
    known = known_id(session_id, problem(404, "session_not_found", "There is no such session."))
    await sessions.end_session(request.host, user_id_of(request), known, requested_by=caller(request))
    return Reply(204, b"", None)
