"""`clavitor user`: make and change users, on the database itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import table
from clavitor_host.cli.prompts import UsageError, confirm, read_secret
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.terminal import facts, moment, write_json

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.identity.models import User

app = typer.Typer(help="Make and change users.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
]
RoleOption = Annotated[Role, typer.Option("--role", help="What the user may do.", case_sensitive=False)]


@app.command()
async def create(
    call: Invocation,
    name: Name,
    role: RoleOption = Role.VIEWER,
    password_stdin: PasswordStdin = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Make a user who cannot log in with a password.")
    ] = False,
) -> None:
    """Make a user, and the database when there is none yet."""
    from clavitor_host.identity import users

    if password_stdin and no_password:
        raise UsageError("give --password-stdin or --no-password, not both")
    secret = None if no_password else read_secret("password", from_stdin=password_stdin, flag="--password-stdin")
    async with call.offline(create=True) as host:
        user = await users.create_user(host, name=name, role=role, password=secret, requested_by=SYSTEM)
    _answer(call, user, f"Made user {user.name} ({user.role}).")


@app.command("list")
async def list_users(call: Invocation) -> None:
    """List every user."""
    async with call.offline() as host:
        found = await every_user(host)
    if call.json:
        write_json({"users": [as_dict(user) for user in found]})
    else:
        rows = [(u.name, u.role, "disabled" if u.disabled else "", moment(u.last_login_at), u.id) for u in found]
        table(("NAME", "ROLE", "STATE", "LAST LOGIN", "ID"), rows)


@app.command()
async def show(call: Invocation, name: Name) -> None:
    """Show a user."""
    from clavitor_host.identity import users

    async with call.offline() as host:
        user = await users.get_user_by_name(host, name)
    shown = as_dict(user)
    if call.json:
        write_json(shown)
    else:
        facts((key.replace("_", " "), moment(shown[key]) if key.endswith("_at") else shown[key]) for key in shown)


@app.command()
async def disable(call: Invocation, name: Name) -> None:
    """Lock a user out: sessions end, tokens stop, at once."""
    await _set_disabled(call, name, disabled=True)


@app.command()
async def enable(call: Invocation, name: Name) -> None:
    """Let a disabled user in again."""
    await _set_disabled(call, name, disabled=False)


@app.command()
async def delete(
    call: Invocation,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove a user with their tokens and sessions."""
    from clavitor_host.identity import users

    async with call.offline() as host:
        user = await users.get_user_by_name(host, name)
        confirm(f"Remove user {user.name} with all their tokens?", yes=yes)
        await users.delete_user(host, user.id, requested_by=SYSTEM)
    _answer(call, user, f"Removed user {user.name}.")


@app.command()
async def password(call: Invocation, name: Name, password_stdin: PasswordStdin = False) -> None:
    """Set a user's password. All their sessions end."""
    from clavitor_host.identity import users

    async with call.offline() as host:
        user = await users.get_user_by_name(host, name)
        secret = read_secret("password", from_stdin=password_stdin, flag="--password-stdin")
        user = await users.set_password(host, user.id, secret, requested_by=SYSTEM)
    _answer(call, user, f"Set the password of {user.name}.")


@app.command()
async def role(
    call: Invocation,
    name: Name,
    role: Annotated[
        Role,
        typer.Argument(
            metavar="ROLE", help="What the user may do from now on: ADMIN, OPERATOR or VIEWER.", case_sensitive=False
        ),
    ],
) -> None:
    """Give a user another role."""
    from clavitor_host.identity import users

    async with call.offline() as host:
        user = await users.get_user_by_name(host, name)
        user = await users.set_role(host, user.id, role, requested_by=SYSTEM)
    _answer(call, user, f"User {user.name} is now {user.role}.")


async def every_user(host: Host) -> list[User]:
    """Return all users in the order they were made."""
    from clavitor_host.identity import users

    found: list[User] = []
    more = True
    while more:
        page, more = await users.list_users(host, after=found[-1].id if found else None)
        found.extend(page)
    return found


def as_dict(user: User) -> dict[str, Any]:
    """Return a user as JSON values."""

    return user._asdict()


async def _set_disabled(call: Invocation, name: str, *, disabled: bool) -> None:
    from clavitor_host.identity import users

    async with call.offline() as host:
        user = await users.get_user_by_name(host, name)
        user = await users.set_disabled(host, user.id, disabled, requested_by=SYSTEM)
    _answer(call, user, f"{'Disabled' if disabled else 'Enabled'} user {user.name}.")


def _answer(call: Invocation, user: User, sentence: str) -> None:
    if call.json:
        write_json(as_dict(user))
    else:
        print(sentence)
