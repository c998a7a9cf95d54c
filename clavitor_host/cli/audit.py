"""`clavitor audit`: check the chain, export its rows."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clavitor_host.cli.exit_codes import ExitCode
from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.progress import progress_bar
from clavitor_host.cli.prompts import UsageError
from clavitor_host.errors import ClavitorError
from clavitor_host.terminal import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

app = typer.Typer(help="Check and export the audit log.", no_args_is_help=True)


class Form(StrEnum):
    """How rows are written."""

    jsonl = "jsonl"
    csv = "csv"


@app.command()
async def verify(call: Invocation) -> None:
    """Recompute the hash chain and name the first broken row.

    Exits with 5 when there is one.
    """

    from clavitor_host.audit.verify import verify_host

    async with call.offline() as host:
        with progress_bar("Checking the audit chain", quiet=call.json) as progress:
            result = await verify_host(host, progress)
    if call.json:
        write_json(result._asdict())
    elif result.ok:
        print(f"ok: the audit chain is whole: {result.rows} rows, head {result.head_id} {result.head_hash}")
    else:
        print(f"The audit chain is broken at row {result.broken_id}: {result.reason} ({result.rows} rows before it)")
    if not result.ok:
        raise typer.Exit(ExitCode.UNHEALTHY)


@app.command()
async def export(
    call: Invocation,
    *,
    form: Annotated[Form, typer.Option("--format", help="JSON Lines or CSV.")] = Form.jsonl,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to FILE, not to standard output.")
    ] = None,
    category: Annotated[str | None, typer.Option("--category", help="Only rows of this category.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only rows of this action.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Only what this actor did.")] = None,
    entry: Annotated[str | None, typer.Option("--entry", metavar="ID", help="Only rows about this entry.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="From this date or time (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this date or time.")] = None,
) -> None:
    """Write audit rows, oldest first.

    With --json: JSON Lines.
    """
    from clavitor_host.audit.search import AuditFilter
    from clavitor_host.audit.search import export as rows_of

    if call.json and form is Form.csv:
        raise UsageError("--json does not go with --format csv")
    wanted = AuditFilter(category, action, actor, entry, _micros("--since", since), _micros("--until", until))
    async with call.offline() as host:
        with _sink(output) as sink:
            async for part in rows_of(host.db, wanted, form.value):
                sink.write(part)


@contextmanager
def _sink(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with output.open("wb") as file:
            yield file
    except OSError as error:
        raise ClavitorError(f"{output} cannot be written: {error.strerror}") from None


def _micros(flag: str, text: str | None) -> int | None:
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag}: expected a date or time such as 2030-01-31 or 2030-01-31T12:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)
