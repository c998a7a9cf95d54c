"""`clavitor license`: look at the license and change it, on the database itself, beside a running server or not.

A token is read from a file or from standard input. Arguments are seen by everybody on the machine, and kept by shells.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from clavitor_host.api import ClavitorError, Host, Problem, terminal
from clavitor_licensing.domain.state import LicenseState

if TYPE_CHECKING:
    from clavitor_licensing.domain.info import LicenseInfo, LicenseRejected
    from clavitor_licensing.models import LimitPreview, LimitUsage, Preview, View
    from clavitor_licensing.service import LicenseService

UNHEALTHY: Final = 5
"""Exit code: the command worked, and what it checked is not well."""

_MAY_BE_TOKEN = re.compile(r"[0-9A-Za-z+/=.\s]{64,}")

app = typer.Typer(name="license", help="Show, check and install the license of this server.", no_args_is_help=True)

TokenFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE|-", help="File with the token; without it, or with -, standard input.", show_default=False
    ),
]


@app.command()
async def show(ctx: typer.Context) -> None:
    """Show the license, its state, and where it came from. The token is not shown."""
    from clavitor_licensing.schemas import LicenseOut

    async with ctx.obj.offline() as host:
        service = _service(host)
        view, then = await service.view(), service.after_restart()
    if ctx.obj.json:
        print(LicenseOut.of(view).model_dump_json())
        return
    _facts([*_about(view), *_after_restart(then)])
    if view.installed_at is not None:
        _note_shadow(view.shadowed_by)


@app.command()
async def usage(ctx: typer.Context) -> None:
    """Show how much of every limit is in use, its cap, and whether that is the license's or the default tier's."""
    from clavitor_licensing.schemas import UsageOut

    async with ctx.obj.offline() as host:
        service = _service(host)
        found = await service.usage()
        view, then = service.known(), service.after_restart()
    if ctx.obj.json:
        print(UsageOut.of(view, found).model_dump_json())
        return
    print(f"{view.state}: {view.message}")
    terminal.table(("LIMIT", "USED", "CAP", "OVER", "SOURCE"), [_used(limit) for limit in found])
    for name, text in _after_restart(then):
        terminal.note(f"{name}: {text}")


@app.command()
async def preview(ctx: typer.Context, file: TokenFile = "-") -> None:
    """Show what installing a license would do to every cap. Nothing is changed."""
    from clavitor_licensing.schemas import PreviewOut

    token = _read_token(file)
    async with ctx.obj.offline() as host:
        found = await _service(host).preview(token)
    if ctx.obj.json:
        print(PreviewOut.of(found).model_dump_json())
        return
    _facts(_offered(found))
    _caps(found)
    _warn(found)
    _note_shadow(found.shadowed_by)


@app.command()
async def install(ctx: typer.Context, file: TokenFile = "-") -> None:
    """Install a license in the place of any other. A running server follows at once, or within a minute.

    A license that is refused replaces nothing, but the server then counts as INVALID, with the caps of the default
    tier, until one is accepted: `clavitor license preview` refuses the same licenses and changes nothing.
    """
    from clavitor_licensing.audit import SYSTEM
    from clavitor_licensing.schemas import LicenseChanged

    token = _read_token(file)
    async with ctx.obj.offline() as host:
        service = _service(host)
        if (before := await _preview_or_nothing(service, token)) is not None:
            _warn(before)
        try:
            view = await service.install(token, by=SYSTEM, source="command")
        except Problem as error:
            raise _with_consequence(error) from None
    if ctx.obj.json:
        print(LicenseChanged.of(view).model_dump_json())
        return
    assert view.installed is not None
    print(f"Installed license {view.installed.license_id} for {view.tenant_id}. {view.message}")
    if before is not None:
        _caps(before)
    _note_shadow(view.shadowed_by)


@app.command()
async def remove(
    ctx: typer.Context, yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False
) -> None:
    """Remove the license: the caps of the default tier apply.

    What is above a cap stays, but telemetry and artifacts are kept only as long as the caps say: what is older is
    deleted soon. When there is something of that kind, this says so, and --yes is needed.
    """
    from clavitor_licensing.audit import SYSTEM
    from clavitor_licensing.wording import deletions

    async with ctx.obj.offline() as host:
        service = _service(host)
        lost = list(deletions(await service.removal()))
        for text in lost:
            terminal.note(f"warning: {text}")
        if lost and not yes:
            raise ClavitorError("nothing was changed: removing the license deletes what is above; confirm with --yes")
        terminal.confirm("Remove the license? To have it back, its token is needed again.", yes=yes)
        view = await service.remove(by=SYSTEM)
    _changed(ctx, view, "Removed the license.")


@app.command()
async def forget_refused(ctx: typer.Context) -> None:
    """Forget the token that was refused: the license that is stored counts again."""
    from clavitor_licensing.audit import SYSTEM

    async with ctx.obj.offline() as host:
        view = await _service(host).forget_refused(by=SYSTEM)
    _changed(ctx, view, "Forgot the token that was refused.")


@app.command()
async def reset_clock(ctx: typer.Context) -> None:
    """Believe the clock again, after it went back by more than a day and time for licensing stood still."""
    from clavitor_licensing.audit import SYSTEM

    async with ctx.obj.offline() as host:
        view = await _service(host).reset_clock(by=SYSTEM)
    _changed(ctx, view, "Reset the clock of licensing.")


@app.command()
async def doctor(ctx: typer.Context) -> None:
    """Explain the state of the license, and what to do about it. Exits with 5 when something needs a person."""
    from clavitor_licensing.config import LicensingConfig
    from clavitor_licensing.examining import examine

    async with ctx.obj.offline() as host:
        service = _service(host)
        config = host.plugin_config("licensing")
        assert isinstance(config, LicensingConfig)
        findings = await examine(host, service, config)
        state = service.state()
    well = all(finding.action is None for finding in findings)
    if ctx.obj.json:
        checks = [{**finding._asdict(), "ok": finding.action is None} for finding in findings]
        terminal.write_json({"ok": well, "state": state.value, "checks": checks})
    else:
        terminal.table(
            ("CHECK", "STATE", "FOUND"), [(f.name, "ok" if f.action is None else "look", f.detail) for f in findings]
        )
        for action in dict.fromkeys(finding.action for finding in findings if finding.action):
            print(f"-> {action}")
    if not well:
        raise typer.Exit(UNHEALTHY)


# --- tokens


def _read_token(file: str) -> str:
    """Return what a file or standard input holds; whether it is a token is for the validator to say."""
    from clavitor_licensing.domain.canonical import MAX_TOKEN_SIZE

    if file == "-":
        if sys.stdin.isatty():
            terminal.note("Paste the token, then press Ctrl-D:")
        data = sys.stdin.buffer.read(MAX_TOKEN_SIZE + 1)
    else:
        try:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_TOKEN_SIZE + 1)
        except (OSError, ValueError) as error:
            raise _unreadable(file, error) from None
    if not data.strip():
        raise ClavitorError("there is no token: what was read is empty")
    return data.decode("ascii", "replace")


def _unreadable(file: str, error: OSError | ValueError) -> ClavitorError:
    """Return the error for a file; one that may be a token itself is not repeated."""
    if len(file) > 255 or not file.isprintable() or _MAY_BE_TOKEN.fullmatch(file):
        return ClavitorError(
            "the argument is no file: give the token in a file or on standard input, never among the arguments, "
            "where everybody on this machine sees it"
        )
    return ClavitorError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}")


async def _preview_or_nothing(service: LicenseService, token: str) -> Preview | None:
    """Return the caps before and after; None for a token that `install` is about to refuse, for the record."""
    try:
        return await service.preview(token)
    except Problem as error:
        if error.status != 400:
            raise
        return None


def _with_consequence(error: Problem) -> Exception:
    from clavitor_licensing.changes import OF_THE_COMMAND

    if error.code in OF_THE_COMMAND:
        return ClavitorError(
            f"{error.detail} The settings of this command are to blame: run it with the server's variables and "
            "configuration file. The license of the server is as before"
        )
    if error.extra.get("state") != LicenseState.INVALID:
        return error
    return ClavitorError(
        f"{error.detail} The license of this server now counts as INVALID, with the caps of the default tier, until "
        "one is accepted, or `clavitor license forget-refused` brings the stored one back"
    )


# --- showing


def _service(host: Host) -> LicenseService:
    from clavitor_licensing.routes import service_of

    return service_of(host)


def _facts(pairs: Iterable[tuple[str, str | None]]) -> None:
    """Write what there is of these."""
    terminal.facts(pair for pair in pairs if pair[1] is not None)


def _about(view: View) -> Iterable[tuple[str, str | None]]:
    from clavitor_licensing.models import iso, iso_of
    from clavitor_licensing.wording import installed_how

    yield "state", view.state.value
    yield "", view.message
    yield "tenant", view.tenant_id
    if info := view.license or view.installed:
        yield "license", info.license_id
        yield "label", info.label
        yield "issued", iso(info.iat)
        yield "expires", iso(info.exp)
        yield "grace until", iso(info.grace_ends) if info.grace_period_days else None
    if view.installed_at is not None:
        yield "installed", f"{iso_of(view.installed_at)} by {view.installed_by}, {installed_how(view.source)}"
        yield "validated", iso_of(view.last_validated_at)
    if view.rejection is not None:
        yield "refused", f"{iso_of(view.rejection.at)}, {installed_how(view.rejection.source)}"
        if view.installed is not None:
            yield "", "The license above is still stored: install it again, or run clavitor license forget-refused."
    if view.clock_stopped:
        yield "clock", f"went back: time for licensing stands still at {iso(view.time)}"


def _after_restart(then: LicenseInfo | LicenseRejected | None) -> Iterable[tuple[str, str]]:
    from clavitor_licensing.domain.info import LicenseInfo

    if then is not None:
        found = then.license_id if isinstance(then, LicenseInfo) else f"INVALID, {then.message}"
        yield "after a restart", found


def _used(limit: LimitUsage) -> tuple[Any, ...]:
    from clavitor_licensing.wording import is_full

    mark = "FULL" if is_full(limit) else max(0, limit.current - limit.cap)
    return limit.key, limit.current, limit.cap, mark, limit.source


def _changed(ctx: typer.Context, view: View, done: str) -> None:
    from clavitor_licensing.schemas import LicenseChanged

    if ctx.obj.json:
        print(LicenseChanged.of(view).model_dump_json())
        return
    print(f"{done} {view.message}")
    _note_shadow(view.shadowed_by)


def _warn(preview: Preview) -> None:
    from clavitor_licensing.wording import warnings

    for text in warnings(preview):
        terminal.note(f"warning: {text}")


def _offered(preview: Preview) -> Iterable[tuple[str, str | None]]:
    from clavitor_licensing.models import iso

    info = preview.license
    yield "would be", preview.state.value
    yield "license", info.license_id
    yield "label", info.label
    yield "expires", iso(info.exp)
    yield "grace until", iso(info.grace_ends) if info.grace_period_days else None


def _caps(preview: Preview) -> None:
    terminal.table(("LIMIT", "OLD", "NEW", "USED", "OVER"), [_cells(limit) for limit in preview.limits])


def _cells(limit: LimitPreview) -> tuple[Any, ...]:
    return limit.key, limit.old, limit.new, limit.used, limit.over_by


def _note_shadow(source: str | None) -> None:
    from clavitor_licensing.wording import shadow_notice

    if source is not None:
        terminal.note(shadow_notice(source))
