"""`/admin/tokens`: bearer tokens of the visitor, and for those who may see them, of all."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args
from urllib.parse import urlencode

import quart
from quart import Blueprint

from clavitor_host.errors import Problem, invalid_field
from clavitor_host.host import Host
from clavitor_host.identity import tokens
from clavitor_host.identity.caller import known_id, query_id
from clavitor_host.identity.ids import new_id
from clavitor_host.identity.models import Resource, Role, Scope, Token, TokenKind
from clavitor_host.identity.routes_tokens import NO_OWNER
from clavitor_host.identity.users import get_user, get_user_by_name
from clavitor_host.web.pages.navigation import may
from clavitor_host.web.pages.page import Visit, page

blueprint = Blueprint("tokens", __name__)

PAGE = 50
EXPIRIES: Mapping[str, str] = MappingProxyType(
    {"1": "in a day", "7": "in a week", "30": "in 30 days", "90": "in 90 days", "365": "in a year", "": "never"}
)
"""Days to an expiry, and how the form calls it."""
KINDS: Mapping[TokenKind, str] = MappingProxyType({"user": "For a user", "agent": "For an agent", "metrics": "Metrics"})
_DAY = 86_400_000_000


class TokenRow(NamedTuple):
    """A token as the list shows it. `owner`: the name of its user, None when it has none."""

    token: Token
    owner: str | None
    expired: bool
    revocable: bool


@blueprint.get("/admin/tokens")
@page(action="tokens.read")
async def show_tokens(visit: Visit) -> quart.Response:
    host, identity = visit.host, visit.identity
    sees_all = await may(host, identity, "tokens.read", Resource("tokens", owner_id=NO_OWNER))
    wanted = query_id(visit.request, "user") or (None if sees_all else identity.user_id)
    await host.authorize(identity, "tokens.read", Resource("tokens", owner_id=wanted or NO_OWNER))
    after = query_id(visit.request, "after")
    found, more = await tokens.list_tokens(host, user_id=wanted, after=after, limit=PAGE)
    names = await _names(host, {token.user_id for token in found} | {wanted})
    first = f"/admin/tokens?{urlencode({'user': wanted})}" if wanted else "/admin/tokens"
    return visit.render(
        "tokens.html",
        tokens=[await _row(visit, token, names) for token in found],
        owner=names.get(wanted) if wanted and wanted != identity.user_id else None,
        user_id=wanted,
        sees_all=sees_all,
        after=after,
        first=first,
        next=f"{first}{'&' if wanted else '?'}{urlencode({'after': found[-1].id})}" if more else None,
    )


@blueprint.get("/admin/tokens/new")
@page(action="tokens.write")
async def new_token(visit: Visit) -> quart.Response:
    makes_all = visit.identity.role is Role.ADMIN
    kind = visit.values.get("kind") or visit.request.query.get("kind", "user")
    return visit.render(
        "token_new.html",
        kind=kind if kind in KINDS and makes_all else "user",
        kinds=list(KINDS.items()) if makes_all else [],
        token_id=visit.values.get("token_id") or new_id(visit.host),
        owner=visit.request.query.get("owner", visit.identity.actor),
        expiries=list(EXPIRIES.items()),
    )


@blueprint.post("/admin/tokens/new")
@page(action="tokens.write", again=new_token)
async def create_token(visit: Visit) -> quart.Response:
    """Answers with the token itself, the only time it is shown; everything else redirects after a POST.

    The form carries the new token's id, so that loading the answer again does not make a second token.
    """
    form, host, identity = await visit.form(), visit.host, visit.identity
    kind = next((kind for kind in KINDS if kind == form.get("kind")), None)
    scope = next((scope for scope in get_args(Scope) if scope == form.get("scope", "read")), None)
    if kind is None:
        raise invalid_field("kind", "user, agent or metrics")
    if scope is None:
        raise invalid_field("scope", "read or write")
    user_id = await _owner(visit, form.get("owner", identity.actor)) if kind == "user" else None
    await host.authorize(identity, "tokens.write", Resource("tokens", owner_id=user_id or NO_OWNER))
    try:
        token, value = await tokens.create_token(
            host,
            name=form.get("name", ""),
            kind=kind,
            user_id=user_id,
            agent_id=form.get("agent_id") or None,
            scope=scope,
            environment_id=form.get("environment_id") or None,
            expires_at=_expiry(host, form.get("days", "")),
            token_id=known_id(form.get("token_id", ""), invalid_field("token_id", "the id that the form came with")),
            requested_by=identity,
        )
    except Problem as error:
        if error.code == "token_exists":
            return visit.redirect("/admin/tokens", done="token-made")
        raise
    owner = (await _names(host, {user_id})).get(user_id) if user_id else None
    return visit.render("token_made.html", token=token, value=value, owner=owner, base_url=host.config.base_url)


@blueprint.post("/admin/tokens/<token_id>/revoke")
@page(action="tokens.write")
async def revoke_token(visit: Visit, token_id: str) -> quart.Response:
    token = await tokens.get_token(visit.host, known_id(token_id, tokens.token_not_found()))
    await visit.host.authorize(visit.identity, "tokens.write", _resource(token))
    await tokens.revoke_token(visit.host, token.id, requested_by=visit.identity)
    return visit.redirect("/admin/tokens", done="token-revoked")


async def _row(visit: Visit, token: Token, names: Mapping[str, str]) -> TokenRow:
    return TokenRow(
        token,
        names.get(token.user_id) if token.user_id else None,
        token.expires_at is not None and token.expires_at <= visit.host.clock.now_us(),
        await may(visit.host, visit.identity, "tokens.write", _resource(token)),
    )


async def _owner(visit: Visit, name: str) -> str:
    """Return the id of a token's owner by name; the visitor's own without asking."""
    if name == visit.identity.actor and visit.identity.user_id is not None:
        return visit.identity.user_id
    try:
        if name.isprintable() and visit.may("users.read"):
            return (await get_user_by_name(visit.host, name)).id
    except Problem as error:
        if error.status != 404:
            raise
    raise invalid_field("owner", "the name of a user")


async def _names(host: Host, user_ids: set[str | None]) -> dict[str, str]:
    names = {}
    for user_id in user_ids - {None}:
        assert user_id is not None
        try:
            names[user_id] = (await get_user(host, user_id)).name
        except Problem as error:
            if error.status != 404:
                raise
    return names


def _expiry(host: Host, days: str) -> int | None:
    if days not in EXPIRIES:
        raise invalid_field("days", "one of the choices")
    return host.clock.now_us() + int(days) * _DAY if days else None


def _resource(token: Token) -> Resource:
    return Resource("tokens", token.id, owner_id=token.user_id or NO_OWNER)
