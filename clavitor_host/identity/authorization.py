"""Who may do what: the matrix of vault.md section 2, then what the credential narrows, then the policies."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from clavitor_host.errors import Problem, forbidden
from clavitor_host.identity.models import Identity, Resource
from clavitor_host.identity.rows import note_bounded

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.http import Request


NOBODY = "anonymous"
"""The actor of audit rows about somebody who is not logged in."""


class Grant(Enum):
    """How far a caller may go with an action."""

    NO = "no"
    YES = "yes"
    OWN = "own"
    """What belongs to the user."""
    ENVIRONMENT = "environment"
    """What is in the environment of the token."""
    SELF = "self"
    """The agent that the token was made for."""


NO, YES, OWN, ENVIRONMENT, SELF = Grant

_COLUMNS = ("VIEWER", "OPERATOR", "ADMIN", "agent", "metrics", "peer")
# fmt: off
_MATRIX = {
    #                   VIEWER  OPERATOR  ADMIN   agent         metrics  peer
    "entries.read":    (YES,    YES,      YES,    ENVIRONMENT,  NO,      NO),
    "entries.write":   (NO,     YES,      YES,    ENVIRONMENT,  NO,      NO),
    "fleet.read":      (YES,    YES,      YES,    SELF,         NO,      NO),
    "fleet.write":     (NO,     YES,      YES,    SELF,         NO,      NO),
    "agents.register": (NO,     YES,      YES,    ENVIRONMENT,  NO,      NO),
    "telemetry.write": (NO,     NO,       NO,     ENVIRONMENT,  NO,      NO),
    "users.read":      (NO,     YES,      YES,    NO,           NO,      NO),
    "users.write":     (NO,     NO,       YES,    NO,           NO,      NO),
    "tokens.read":     (OWN,    YES,      YES,    NO,           NO,      NO),
    "tokens.write":    (OWN,    OWN,      YES,    NO,           NO,      NO),
    "license.read":    (NO,     YES,      YES,    NO,           NO,      NO),
    "license.write":   (NO,     NO,       YES,    NO,           NO,      NO),
    "audit.read":      (NO,     YES,      YES,    NO,           NO,      NO),
    "audit.write":     (NO,     NO,       YES,    NO,           NO,      NO),
    "plugins.read":    (NO,     YES,      YES,    NO,           NO,      NO),
    "plugins.write":   (NO,     NO,       YES,    NO,           NO,      NO),
    "metrics.read":    (NO,     YES,      YES,    NO,           YES,     NO),
    "me":              (YES,    YES,      YES,    NO,           NO,      NO),
    "me.write":        (YES,    YES,      YES,    NO,           NO,      NO),
    "peer":            (NO,     NO,       NO,     NO,           NO,      YES),
}
# fmt: on
"""Everything else is refused. `me` is reading about oneself, `me.write` changing one's password and sessions; `peer`
is what servers of one deployment do among each other. Audit and plugins are administered by `*.write`."""

GRANTS: Mapping[str, Mapping[str, Grant]] = {
    action: dict(zip(_COLUMNS, row, strict=True)) for action, row in _MATRIX.items()
}
ACTIONS = tuple(_MATRIX)

_READS = frozenset(action for action in _MATRIX if action == "me" or action.endswith(".read"))
"""What a token with scope `read` may do."""
_AGENTS_WORK = frozenset({"agents.register", "telemetry.write"})
"""What an agent token may do whatever its scope, which is about entries."""
_IN_ENVIRONMENTS = frozenset({"entries.read", "entries.write", "fleet.read", "fleet.write"}) | _AGENTS_WORK
"""What a credential that is tied to one environment may do, in that environment."""


async def authorize(host: Host, identity: Identity, action: str, resource: Resource) -> None:
    """Raise a 403 unless the roles, the credential and every policy allow `action` on `resource`.

    Where `resource` does not say yet in which environment it is or whose it is, the caller narrows what it does to
    `identity.environment_id` and `identity.user_id`, or comes back with what it found (see `Resource`).
    """
    reason = refusal(identity, action, resource)
    if reason is not None:
        await _note(host, identity, action, resource, reason)
        refused = forbidden(reason)
        refused.noted = True
        raise refused
    if host.hooks.has("authorize"):
        try:
            await host.hooks.policy("authorize", host=host, identity=identity, action=action, resource=resource)
        except Problem as error:
            await _note(host, identity, action, resource, error.detail)
            error.noted = True
            raise


async def note_refused(host: Host, request: Request, error: Problem) -> None:
    """Record a 401 or 403 that nobody has recorded yet. A request without any credential is not a refusal."""
    shown = any(name in (b"authorization", b"cookie") for name, _ in request.headers)
    if error.noted or not shown:
        return
    actor = request.identity.actor if request.identity is not None else NOBODY
    about = {"method": request.method, "path": request.path[:200], "code": error.code}
    key = f"{request.client} {actor} {error.code}"
    title = f"refused {request.method} {request.path}"
    await note_bounded(host, key, "refuse", actor=actor, title=title, payload=about, source=request.client)


def refusal(identity: Identity, action: str, resource: Resource) -> str | None:
    """Return why the host itself refuses, in one sentence, or None when it does not."""
    row = GRANTS.get(action)
    who = identity.role if identity.kind == "user" else identity.kind
    grant = NO if row is None or who is None else row[who]
    if grant is NO:
        return f"{_article(identity)} may not do this ({action})."
    if grant is SELF:
        if identity.agent_id is None or resource.kind != "agents" or resource.id != identity.agent_id:
            return "An agent reaches only itself."
        return None
    scoped = identity.kind != "agent" or action not in _AGENTS_WORK
    if scoped and identity.scope != "write" and action not in _READS:
        return "The token's scope is read."
    if grant is OWN and (identity.user_id is None or resource.owner_id not in (None, identity.user_id)):
        return "Only your own."
    if identity.environment_id is not None:
        if action not in _IN_ENVIRONMENTS and action != "me":
            return "The token reaches only its own environment."
        if resource.environment_id not in (None, identity.environment_id):
            return "The token reaches only its own environment."
    elif grant is ENVIRONMENT:
        return "The token has no environment."
    return None


def _article(identity: Identity) -> str:
    if identity.kind == "user":
        return f"The role {identity.role or 'none'}"
    return f"This kind of credential ({identity.kind})"


async def _note(host: Host, identity: Identity, action: str, resource: Resource, reason: str) -> None:
    about = {"action": action, "resource": resource.kind, "reason": reason}
    if resource.id is not None:
        about["resource_id"] = resource.id[:200]
    key = f"{identity.actor} {identity.token_id} {action}"
    await note_bounded(
        host,
        key,
        "refuse",
        actor=identity.actor,
        title=f"refused {action}",
        payload=about,
        source=identity.source,
    )
