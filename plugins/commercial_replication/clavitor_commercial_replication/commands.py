"""`clavitor replication`: looking at replication, and what a person decides about it.

Works on the database itself, beside a running server or not; the server follows at once. Exit codes: 0 for a command
that did what it was asked, 1 with one line on standard error when it could not. `status` and `verify` end with 0 only
when all is well and equal, `promote --dry-run` when nothing is in the way, else with 5.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clavitor_host.api import ClavitorError, terminal

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

UNHEALTHY = 5
"""Exit code: the command worked, and what it checked is not well."""

SENDER = "commercial_replication.sender"
"""The job that a running server has, whatever its role."""

REPAIR_WAIT = 30.0
"""Seconds for which entries that are sent again are waited for."""

app = typer.Typer(
    name="replication",
    help="Look at replication, compare both vaults, and hand the primary's role on.",
    no_args_is_help=True,
)

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ENTRY_ID]...", help="Entries, by their ids.", show_default=False)
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="URL", help="The primary, when it is not at backup_url.", show_default=False),
]


@app.command()
async def status(ctx: typer.Context) -> None:
    """Show how replication stands: role, epoch, lag, and what is wrong with it.

    Exits with 0 when all is well and both vaults were equal at the last comparison, else with 5.
    """
    from clavitor_commercial_replication.status import facts_of, held_up, problems, report
    from clavitor_commercial_replication.wording import described

    async with ctx.obj.offline() as host:
        service = _service_of(host)
        facts, found = await facts_of(service), await report(service)
        stale = service.config.stalled_after
        wrong = problems(facts, stale) if facts else ["Replication is off: no role is set."]
        if facts and not await host.is_at_work(SENDER):
            wrong.insert(0, "No server runs on this database, so nothing is sent, taken or compared: start it.")
            found |= {"healthy": False, "problems": wrong}
    if ctx.obj.json:
        terminal.write_json(found if facts else {**found, "healthy": False, "problems": wrong})
    else:
        terminal.facts(described(facts) if facts else [])
        print("\n".join(wrong) or (facts and held_up(facts, stale)) or "All is well.")
    if wrong:
        raise typer.Exit(UNHEALTHY)


@app.command()
async def verify(
    ctx: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Send the entries that differ again, and no others.")
    ] = False,
    discard: Annotated[
        bool,
        typer.Option(
            "--discard", help="With --repair: give up what only the backup has, or has newer. It may be all there is."
        ),
    ] = False,
    yes: Yes = False,
) -> None:
    """Compare every entry of the primary with the backup. Run it on the primary; the backup must be reachable.

    Exits with 0 when both are equal, but for what is on its way, else with 5.
    """
    from clavitor_commercial_replication import telling
    from clavitor_commercial_replication import verify as verifying
    from clavitor_commercial_replication.asking import linked

    if discard and not repair:
        raise ClavitorError("--discard says what --repair may do: give both")
    async with _started(ctx) as service, linked(service) as link:
        found = await verifying.compare(service, link)
        repaired = None
        if discard:
            telling.confirm_discard(found, yes=yes)
        if repair and found.unexplained:
            await verifying.recount(service)
        if repair and found.differences:
            repaired = await verifying.repair(service, found.differences, discard=discard)
            sent = [*repaired.resent, *repaired.rewritten, *repaired.removed]
            await verifying.settled(service, sent, seconds=REPAIR_WAIT)
        after = (
            found if repaired is None and not (repair and found.unexplained) else await verifying.compare(service, link)
        )
        stale = service.config.stalled_after
        late = after.oldest is not None and service.host.clock.now_us() - after.oldest > stale * 1_000_000
    well = not (after.differences or after.unexplained or after.quarantined or late)
    if ctx.obj.json:
        terminal.write_json(telling.verified(found, repaired, after, well=well))
    else:
        telling.tell_verified(found, repaired, after, well=well)
    if not well:
        raise typer.Exit(UNHEALTHY)


@app.command()
async def promote(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would mean; change nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also when the primary is at work, or this POP is no complete backup.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Make this POP the primary, when the primary is gone. Shows first what may be lost.

    The old primary turns read-only as soon as it hears of it, and keeps what only it has. A dry run exits with 5 when
    this would be refused.
    """
    from clavitor_commercial_replication import promotion, telling

    async with _started(ctx) as service:
        preview = await promotion.preview(service)
        refused = bool(preview.obstacles) and not force
        if dry_run and ctx.obj.json:
            terminal.write_json({**preview._asdict(), "promoted": False, "refused": refused})
        elif dry_run:
            telling.tell_preview(preview)
            if refused:
                print("It would be refused without --force.")
        if dry_run:
            raise typer.Exit(UNHEALTHY if refused else 0)
        if refused:
            raise ClavitorError(f"{' '.join(preview.obstacles)} Nothing was changed; --force does it nevertheless")
        if not ctx.obj.json:
            telling.tell_preview(preview)
        terminal.confirm("Make this POP the primary?", yes=yes)
        done = await promotion.promote(service, force=force)
    if ctx.obj.json:
        terminal.write_json({**done._asdict(), "promoted": True})
    else:
        print(f"This POP is the primary now, of epoch {done.new_epoch}.")


@app.command()
async def unreplicated(
    ctx: typer.Context,
    data: Annotated[bool, typer.Option("--data", help="With --json: the encrypted data, too.")] = False,
) -> None:
    """List the writes that the other POP has not confirmed, and why it refuses one."""
    from clavitor_commercial_replication import fencing

    rows: list[dict[str, Any]] = []
    async with _started(ctx) as service:
        after = 0
        while page := await fencing.unreplicated(service, after_rev=after):
            payloads = await fencing.payloads(service, page) if data else {}
            rows += [{**row._asdict(), **({"encrypted_data": payloads[row.rev]} if data else {})} for row in page]
            after = page[-1].rev
    if ctx.obj.json:
        terminal.write_json({"entries": rows})
        return
    terminal.table(
        ("ENTRY", "OPERATION", "REV", "WRITTEN", "BYTES", "REFUSED"),
        [(r["entry_id"], r["operation"], r["rev"], terminal.moment(r["at"]), r["size"], r["error"]) for r in rows],
    )


@app.command()
async def replay(
    ctx: typer.Context,
    entry_ids: Ids = None,
    every: All = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also where the primary has a later write of the entry, which is lost.")
    ] = False,
    url: From = None,
) -> None:
    """Have the new primary take writes that only this POP has. It gives them numbers of its own.

    What the new primary has written later itself is a conflict: it stays as it is, and the write stays here. Exits with
    5 when there are conflicts.
    """
    from clavitor_commercial_replication import fencing

    wanted = _wanted(entry_ids, every=every)
    if overwrite and every:
        raise ClavitorError("--overwrite is for entries that are named, not for --all")
    async with _started(ctx) as service:
        done = await fencing.replay(service, wanted, overwrite=overwrite, url=url)
    if ctx.obj.json:
        terminal.write_json(done._asdict())
    else:
        print(f"Written on the primary: {len(done.written)}. There already: {len(done.same)}.")
        for entry_id in done.conflicts:
            shown = terminal.printable(entry_id)
            print(f"conflict: {shown} was written on the primary later, or is not wanted there; it stays here")
    if done.conflicts:
        raise typer.Exit(UNHEALTHY)


@app.command()
async def discard(ctx: typer.Context, entry_ids: Ids = None, every: All = False, yes: Yes = False) -> None:
    """Give up writes that only this POP has: the next re-seed removes them for good."""
    from clavitor_commercial_replication import fencing
    from clavitor_commercial_replication.words import writes

    wanted = _wanted(entry_ids, every=every)
    async with _started(ctx) as service:
        rows = await fencing.chosen(service, wanted)
        terminal.confirm(f"Discard {writes(len(rows))} that no other POP has?", yes=yes or not rows)
        count = await fencing.discard(service, wanted)
    if ctx.obj.json:
        terminal.write_json({"discarded": count})
    else:
        print(f"Discarded: {count}.")


@app.command()
async def requeue(ctx: typer.Context, entry_ids: Ids = None) -> None:
    """Offer the backup entries again that it has refused: those that are named, or all."""
    from clavitor_commercial_replication import queue, state
    from clavitor_commercial_replication.service import QUEUED

    wanted = list(dict.fromkeys(entry_ids)) if entry_ids else None
    async with _started(ctx) as service, service.host.db.transaction() as tx:
        await service.host.vault.lock(tx)
        if (await state.required(tx)).role != "primary":
            raise ClavitorError("this POP is not the primary: nothing is sent from here")
        refused = await queue.refused(tx, wanted or ())
        if unknown := [entry_id for entry_id in wanted or () if entry_id not in refused]:
            raise ClavitorError(
                f"the backup has not refused the entry {unknown[0]}: see `clavitor replication unreplicated`"
            )
        count = await queue.requeue(tx, wanted)
        await service.host.signals.send(tx, QUEUED)
    if ctx.obj.json:
        terminal.write_json({"requeued": count})
    else:
        print(f"Offered again: {count}.")


@app.command()
async def reseed(
    ctx: typer.Context,
    url: From = None,
    give_up: Annotated[
        bool,
        typer.Option(
            "--give-up",
            help="Also when the primary lacks the last write of entries here, which is then lost. It does not cover "
            "writes that wait here still: replay or discard those first.",
        ),
    ] = False,
    yes: Yes = False,
) -> None:
    """Fill this POP anew from the primary, and be its backup. Interrupted, it goes on where it was.

    What the primary does not have is removed here. Refused while writes wait here that no other POP has.
    """
    from clavitor_commercial_replication import reseed as reseeding
    from clavitor_commercial_replication import telling
    from clavitor_commercial_replication.asking import linked, url_of
    from clavitor_commercial_replication.words import entries

    async with _started(ctx) as service, linked(service, url) as link:
        planned = await reseeding.plan(service, link, url or url_of(service))
        about = planned.about
        terminal.note(
            f"{'Going on with' if planned.resuming else 'Filling'} this POP from {about.pop} at {planned.url}: "
            f"{entries(about.entries)} there, {planned.own_entries:,} here."
        )
        for entry_id in planned.some_lost:
            terminal.note(f"The primary lacks the last write of {entry_id}.")
        if planned.lost and not give_up:
            raise ClavitorError(
                f"the primary lacks the last write of {entries(planned.lost)}, which would be gone for good: if the "
                "primary lost it, promote this POP instead; --give-up does it nevertheless"
            )
        lost = f" {entries(planned.lost)} of it may be nowhere else." if planned.lost else ""
        terminal.confirm(f"What the primary does not have is removed here.{lost} Go on?", yes=yes or planned.resuming)
        with _progress(quiet=ctx.obj.json) as progress:
            done = await reseeding.reseed(service, link, planned, progress, give_up=give_up)
    if ctx.obj.json:
        terminal.write_json(done._asdict())
        return
    print(f"Taken from the primary: {done.entries:,}, deleted ones too. Removed here: {done.removed:,}.")
    print(telling.REFILLED[done.equal])


@app.command()
async def tokens(
    ctx: typer.Context,
    forget: Annotated[
        list[str] | None, typer.Option("--forget", metavar="ID", help="Honour this one no more.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Honour none of them any more.")] = False,
    yes: Yes = False,
) -> None:
    """List the tokens of the other POP that are good here, or have some be good no longer.

    On a backup they come from the primary: end them there, or they come back.
    """
    from clavitor_commercial_replication import mirror
    from clavitor_commercial_replication.fencing import COMMAND

    if forget and every:
        raise ClavitorError("name tokens with --forget, or give --all")
    async with _started(ctx) as service:
        if not forget and not every:
            found = await mirror.listed(service.host.db)
        else:
            if every:
                terminal.confirm("Honour no token of the other POP any more?", yes=yes)
            count = await mirror.forget(service, forget, by=COMMAND)
    if forget or every:
        if ctx.obj.json:
            terminal.write_json({"forgotten": count})
        else:
            print(f"Forgotten: {count}.")
    elif ctx.obj.json:
        terminal.write_json({"tokens": [token._asdict() for token in found]})
    else:
        terminal.table(
            ("ID", "KIND", "OWNER", "ROLE", "SCOPE", "EXPIRES"),
            [(t.id, t.kind, t.owner, t.role, t.scope, terminal.moment(t.expires_at)) for t in found],
        )


@asynccontextmanager
async def _started(ctx: typer.Context) -> AsyncIterator[Replication]:
    """Give the service of an app on the database. Raises `ClavitorError` where replication is off."""
    async with ctx.obj.offline() as host:
        service = _service_of(host)
        if not service.on:
            raise ClavitorError("replication is off: set a role in [plugins.commercial_replication]")
        yield service


def _service_of(host: Any) -> Replication:
    from clavitor_commercial_replication.service import service_of

    return service_of(host)


def _wanted(entry_ids: Sequence[str] | None, *, every: bool) -> Collection[str] | None:
    """Return the entries that are named, None for all."""
    if bool(entry_ids) == every:
        raise ClavitorError("name entries, or give --all")
    return None if every else list(dict.fromkeys(entry_ids or ()))


def _progress(*, quiet: bool) -> Any:
    from clavitor_commercial_replication.wording import progress_bar

    return progress_bar("Entries", quiet=quiet)
