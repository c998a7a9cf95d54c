"""`clavitor token`: make and revoke API tokens, on the database itself."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import table
from clavitor_host.cli.prompts import UsageError
from clavitor_host.identity.models import SYSTEM
from clavitor_host.terminal import moment, note, write_json

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.identity.models import Token

app = typer.Typer(help="Make and revoke API tokens.", no_args_is_help=True)


class ScopeChoice(StrEnum):
    """What a token allows, within its owner's role."""

    read = "read"
    write = "write"


class KindChoice(StrEnum):
    """Whom a token is for."""

    user = "user"
    agent = "agent"
    metrics = "metrics"


@app.command()
async def create(
    call: Invocation,
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="The user it acts as.")] = None,
    scope: Annotated[
        ScopeChoice | None,
        typer.Option("--scope", help="What it allows: write includes read.  [default: read for an agent, else write]"),
    ] = None,
    kind: Annotated[KindChoice, typer.Option("--kind", help="A user's token, an agent's, or one for metrics.")] = (
        KindChoice.user
    ),
    name: Annotated[str, typer.Option("--name", help="A name to tell it from others.")] = "command line",
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="ID", help="The only environment it reaches.")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="ID", help="The agent it belongs to.")] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="When it ends: 90d, 12h, 30m, or a date such as 2030-01-31."),
    ] = None,
) -> None:
    """Make a token and print it.

    This is the only time it is shown.
    """
    from clavitor_host.identity import tokens, users

    if (kind is KindChoice.user) != (user is not None):
        raise UsageError("a user token needs --user NAME" if user is None else f"--user does not go with --kind {kind}")
    expires_at = None if expires is None else when(expires, datetime.now(UTC))
    async with call.offline() as host:
        owner = None if user is None else (await users.get_user_by_name(host, user)).id
        made, secret = await tokens.create_token(
            host,
            name=name,
            kind=kind.value,
            user_id=owner,
            agent_id=agent,
            scope=None if scope is None else scope.value,
            environment_id=environment,
            expires_at=expires_at,
            requested_by=SYSTEM,
        )
    if call.json:
        write_json({"token": secret, **as_dict(made)})
    else:
        print(secret)
        note(f"Keep it safe: it is not shown again. Its id is {made.id}.")


@app.command("list")
async def list_tokens(
    call: Invocation,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Only this user's.")] = None,
) -> None:
    """List tokens, newest first."""
    from clavitor_host.cli.user import every_user
    from clavitor_host.identity import users

    async with call.offline() as host:
        owner = None if user is None else (await users.get_user_by_name(host, user)).id
        found = await _every_token(host, owner)
        names = {} if call.json else {user.id: user.name for user in await every_user(host)}
    if call.json:
        write_json({"tokens": [as_dict(token) for token in found]})
        return
    rows = [
        (t.id, t.kind, names.get(t.user_id or "", t.agent_id), t.name, t.scope, t.environment_id, *_moments(t))
        for t in found
    ]
    table(("ID", "KIND", "OWNER", "NAME", "SCOPE", "ENVIRONMENT", "EXPIRES", "LAST USED"), rows)


@app.command()
async def revoke(call: Invocation, token_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")]) -> None:
    """End a token at once."""
    from clavitor_host.identity import tokens

    async with call.offline() as host:
        await tokens.revoke_token(host, token_id, requested_by=SYSTEM)
    if call.json:
        write_json({"id": token_id, "revoked": True})
    else:
        print(f"Revoked token {token_id}.")


def when(text: str, now: datetime) -> int:
    """Return a moment in µs since the epoch: `90d`, `12h` or `30m` from `now`, or a date or time (UTC).

    Raises UsageError for anything else, and for a moment that has passed.
    """
    span = re.fullmatch(r"([0-9]{1,6})([dhm])", text)
    if span:
        seconds = int(span[1]) * {"d": 86_400, "h": 3_600, "m": 60}[span[2]]
        return int((now.timestamp() + seconds) * 1_000_000)
    try:
        end = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--expires: expected 90d, 12h, 30m or a date such as 2030-01-31, not {text}") from None
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    if end <= now:
        raise UsageError(f"--expires: {text} has passed")
    return int(end.timestamp() * 1_000_000)


def as_dict(token: Token) -> dict[str, Any]:
    """Return what is known of a token as JSON values."""

    return token._asdict()


def _moments(token: Token) -> tuple[str, str]:
    return moment(token.expires_at), moment(token.last_used_at)


async def _every_token(host: Host, user_id: str | None) -> list[Token]:
    from clavitor_host.identity import tokens

    found: list[Token] = []
    more = True
    while more:
        page, more = await tokens.list_tokens(host, user_id=user_id, after=found[-1].id if found else None)
        found.extend(page)
    return found
