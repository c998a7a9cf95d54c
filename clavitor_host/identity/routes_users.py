"""`/api/v1/admin/users`."""

from __future__ import annotations

from quart import Blueprint

from clavitor_host.endpoint import Parameter, endpoint
from clavitor_host.http import Reply, Request
from clavitor_host.identity import users
from clavitor_host.identity.caller import ID_PATTERN, caller, created, known_id, query_id
from clavitor_host.identity.schemas import CreateUser, SetPassword, UpdateUser, UserOut, UserPage

blueprint = Blueprint("users", __name__)


@blueprint.post("/api/v1/admin/users")
@endpoint(
    action="users.write", summary="Make a user", tag="users", body=CreateUser, reply=UserOut, status=201, errors=(409,)
)
async def create_user(request: Request, body: CreateUser) -> Reply:
    """Without a password the user can only use tokens. A 403 `license_cap_reached`: the licence allows no more."""
    user = await users.create_user(
        request.host,
        name=body.name,
        role=body.role,
        password=None if body.password is None else body.password.get_secret_value(),
        requested_by=caller(request),
    )
    return created(UserOut.of(user), f"/api/v1/admin/users/{user.id}")


@blueprint.get("/api/v1/admin/users")
@endpoint(
    action="users.read",
    summary="List users in the order they were made",
    tag="users",
    reply=UserPage,
    parameters=(
        Parameter("name", "Only the user of this name."),
        Parameter("limit", "Users a page.", "integer", minimum=1, maximum=1000),
        Parameter("cursor", "`next_cursor` of the page before.", pattern=ID_PATTERN),
    ),
)
async def list_users(request: Request) -> UserPage:
    found, more = await users.list_users(
        request.host,
        name=request.query.get("name"),
        after=query_id(request, "cursor"),
        limit=request.query_int("limit", 100, low=1, high=1000),
    )
    return UserPage(users=[UserOut.of(user) for user in found], next_cursor=found[-1].id if more else None)


@blueprint.get("/api/v1/admin/users/<user_id>")
@endpoint(action="users.read", summary="Read a user", tag="users", reply=UserOut)
async def get_user(request: Request, user_id: str) -> UserOut:
    return UserOut.of(await users.get_user(request.host, known_id(user_id, users.user_not_found())))


@blueprint.patch("/api/v1/admin/users/<user_id>")
@endpoint(action="users.write", summary="Change a user", tag="users", body=UpdateUser, reply=UserOut, errors=(409,))
async def update_user(request: Request, body: UpdateUser, user_id: str) -> UserOut:
    """What is null or not given stays. Disabling ends the user's sessions and stops their tokens at once."""
    user = await users.update_user(
        request.host,
        known_id(user_id, users.user_not_found()),
        name=body.name,
        role=body.role,
        disabled=body.disabled,
        requested_by=caller(request),
    )
    return UserOut.of(user)


@blueprint.delete("/api/v1/admin/users/<user_id>")
@endpoint(
    action="users.write", summary="Delete a user with their tokens and sessions", tag="users", status=204, errors=(409,)
)
async def delete_user(request: Request, user_id: str) -> Reply:
    known = known_id(user_id, users.user_not_found())
    await users.delete_user(request.host, known, requested_by=caller(request))
    return Reply(204, b"", None)


@blueprint.post("/api/v1/admin/users/<user_id>/password")
@endpoint(action="users.write", summary="Set a user's password", tag="users", body=SetPassword, status=204)
async def set_password(request: Request, body: SetPassword, user_id: str) -> Reply:
    """Ends all their sessions."""
    known = known_id(user_id, users.user_not_found())
    await users.set_password(request.host, known, body.password.get_secret_value(), requested_by=caller(request))
    return Reply(204, b"", None)
