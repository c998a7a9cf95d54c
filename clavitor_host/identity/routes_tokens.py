"""`/api/v1/admin/tokens`: everybody's own tokens; OPERATORs read all of them, ADMINs write them too."""

from __future__ import annotations

from quart import Blueprint

from clavitor_host.endpoint import Parameter, endpoint
from clavitor_host.http import Reply, Request
from clavitor_host.identity import tokens
from clavitor_host.identity.caller import ID_PATTERN, caller, created, known_id, query_id
from clavitor_host.identity.models import Resource, Role, Token
from clavitor_host.identity.schemas import CreateToken, TokenCreated, TokenOut, TokenPage
from clavitor_host.identity.users import user_not_found

blueprint = Blueprint("tokens", __name__)

NO_OWNER = ""
"""Owner of tokens that belong to no single user: nobody's own."""


@blueprint.post("/api/v1/admin/tokens")
@endpoint(
    action="tokens.write",
    summary="Make a token",
    tag="tokens",
    body=CreateToken,
    reply=TokenCreated,
    status=201,
    errors=(404, 409),
)
async def create_token(request: Request, body: CreateToken) -> Reply:
    """The reply is the only place where the token itself is shown. It allows no more than what asks for it."""
    identity, lifetime = caller(request), body.expires_in
    user_id = body.user_id
    if user_id is None and body.kind == "user":
        user_id = identity.user_id
    elif user_id is not None:
        known_id(user_id, user_not_found())
    await request.host.authorize(identity, "tokens.write", Resource("tokens", owner_id=user_id or NO_OWNER))
    token, value = await tokens.create_token(
        request.host,
        name=body.name,
        kind=body.kind,
        user_id=user_id,
        agent_id=body.agent_id,
        scope=body.scope,
        environment_id=body.environment_id,
        expires_at=None if lifetime is None else request.host.clock.now_us() + lifetime * 1_000_000,
        requested_by=identity,
    )
    reply = TokenCreated(**TokenOut.of(token).model_dump(), token=value)
    return created(reply, f"/api/v1/admin/tokens/{token.id}")


@blueprint.get("/api/v1/admin/tokens")
@endpoint(
    action="tokens.read",
    summary="List tokens, newest first",
    tag="tokens",
    reply=TokenPage,
    parameters=(
        Parameter("user_id", "Only this user's tokens; a VIEWER gets their own in any case.", pattern=ID_PATTERN),
        Parameter("limit", "Tokens a page.", "integer", minimum=1, maximum=1000),
        Parameter("cursor", "`next_cursor` of the page before.", pattern=ID_PATTERN),
    ),
)
async def list_tokens(request: Request) -> TokenPage:
    identity = caller(request)
    wanted = query_id(request, "user_id")
    if wanted is None and identity.role is Role.VIEWER:
        wanted = identity.user_id
    await request.host.authorize(identity, "tokens.read", Resource("tokens", owner_id=wanted or NO_OWNER))
    limit = request.query_int("limit", 100, low=1, high=1000)
    found, more = await tokens.list_tokens(request.host, user_id=wanted, after=query_id(request, "cursor"), limit=limit)
    return TokenPage(tokens=[TokenOut.of(token) for token in found], next_cursor=found[-1].id if more else None)


@blueprint.get("/api/v1/admin/tokens/<token_id>")
@endpoint(action="tokens.read", summary="Read what is known of a token", tag="tokens", reply=TokenOut)
async def get_token(request: Request, token_id: str) -> TokenOut:
    return TokenOut.of(await _reached(request, token_id, "tokens.read"))


@blueprint.delete("/api/v1/admin/tokens/<token_id>")
@endpoint(action="tokens.write", summary="Revoke a token at once", tag="tokens", status=204)
async def revoke_token(request: Request, token_id: str) -> Reply:
    token = await _reached(request, token_id, "tokens.write")
    await tokens.revoke_token(request.host, token.id, requested_by=caller(request))
    return Reply(204, b"", None)


async def _reached(request: Request, token_id: str, action: str) -> Token:
    token = await tokens.get_token(request.host, known_id(token_id, tokens.token_not_found()))
    resource = Resource("tokens", token.id, owner_id=token.user_id or NO_OWNER)
    await request.host.authorize(caller(request), action, resource)
    return token
