"""`clavitor entry`: read and write entries over HTTP, as any client does: nothing here sees the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import table
from clavitor_host.cli.prompts import UsageError, read_text
from clavitor_host.terminal import moment, note, write_json

if TYPE_CHECKING:
    from clavitor_host.client import Origin, VaultClient, VaultEntry

app = typer.Typer(
    help="Read and write entries of a running server, with an API token. The server keeps what it is given: encrypting "
    "and decrypting is the client's affair, so data is base64 of something encrypted already, in and out.",
    no_args_is_help=True,
)

EntryID = Annotated[str, typer.Argument(metavar="ID", help="Its id.")]
URLs = Annotated[
    list[str],
    typer.Option(
        "--url",
        metavar="URL",
        help="Where the server is. Give it again for a backup: reads go there while the one before does not answer, "
        "and a write goes to the one that takes it.",
    ),
]
TokenFile = Annotated[
    Path, typer.Option("--token-file", metavar="FILE", help="File with the API token (- for standard input).")
]
CAFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file", metavar="FILE", help="PEM file with the CA of the servers' certificates, if it is your own."
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long a server may take, before the next is asked."),
]
MinRev = Annotated[
    int,
    typer.Option(
        "--min-rev", metavar="REV", min=0, help="Take no answer from a backup that has not got this write yet."
    ),
]
IfRev = Annotated[
    int | None, typer.Option("--if-rev", metavar="REV", min=1, help="Only when this is the entry's last write.")
]
PATIENCE = 10.0
PAGE = 1000


@app.command()
async def get(
    call: Invocation,
    entry_id: EntryID,
    url: URLs,
    token_file: TokenFile,
    ca_file: CAFile = None,
    seconds: Timeout = PATIENCE,
    min_rev: MinRev = 0,
) -> None:
    """Print what is stored, as base64.

    Says on standard error when a backup answered, and how old that answer can be.
    """
    async with _client(url, token_file, ca_file, seconds) as vault:
        vault.min_rev = min_rev
        found = await vault.get(entry_id)
    _tell(url, found.origin)
    if call.json:
        write_json({**_as_dict(found), "encrypted_data": found.encrypted_data, **_origin(found.origin)})
    else:
        print(found.encrypted_data)


@app.command("list")
async def list_entries(
    call: Invocation,
    url: URLs,
    token_file: TokenFile,
    ca_file: CAFile = None,
    seconds: Timeout = PATIENCE,
    min_rev: MinRev = 0,
) -> None:
    """List the living entries without their data, newest write first."""
    async with _client(url, token_file, ca_file, seconds) as vault:
        vault.min_rev = min_rev
        pages = [await vault.page(limit=PAGE)]
        while pages[-1].next_cursor is not None:
            pages.append(await vault.page(pages[-1].next_cursor, limit=PAGE))
    for page in pages:
        if page is pages[0] or page.origin.url != pages[0].origin.url:
            _tell(url, page.origin)
    found = [entry for page in pages for entry in page.entries]
    if call.json:
        write_json({"entries": [{**_as_dict(entry), **_origin(entry.origin)} for entry in found]})
    else:
        rows = [(e.entry_id, e.rev, moment(e.updated_at), e.environment_id) for e in found]
        table(("ID", "REV", "UPDATED", "ENVIRONMENT"), rows)


@app.command()
async def put(
    call: Invocation,
    entry_id: EntryID,
    url: URLs,
    token_file: TokenFile,
    data_file: Annotated[
        Path,
        typer.Option(
            "--data-file", metavar="FILE", help="File with the encrypted data as base64 (- for standard input)."
        ),
    ] = Path("-"),
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="ID", help="Put it into this environment.  [default: as it is]"),
    ] = None,
    if_rev: IfRev = None,
    new: Annotated[bool, typer.Option("--new", help="Only when there is no such entry.")] = False,
    ca_file: CAFile = None,
    seconds: Timeout = PATIENCE,
) -> None:
    """Create or replace an entry.

    A write is sent to the server that takes writes, never to two: when its answer is lost, this says so.
    """
    from clavitor_host.client import KEEP

    if new and if_rev is not None:
        raise UsageError("give --new or --if-rev, not both")
    if str(data_file) == str(token_file) == "-":
        raise UsageError("standard input is either the token or the data: name a file for one with --data-file")
    data = "".join(read_text(data_file).split())
    if not data:
        raise UsageError("--data-file: there is no data")
    async with _client(url, token_file, ca_file, seconds) as vault:
        written = await vault.put(
            entry_id,
            data,
            environment_id=KEEP if environment is None else environment,
            if_match=if_rev,
            if_none_match=new,
        )
    if call.json:
        write_json(written._asdict())
    else:
        print(f"{'Created' if written.created else 'Replaced'} entry {written.entry_id}, rev {written.rev}.")


@app.command()
async def rm(
    call: Invocation,
    entry_id: EntryID,
    url: URLs,
    token_file: TokenFile,
    if_rev: IfRev = None,
    ca_file: CAFile = None,
    seconds: Timeout = PATIENCE,
) -> None:
    """Delete an entry."""
    async with _client(url, token_file, ca_file, seconds) as vault:
        rev = await vault.delete(entry_id, if_match=if_rev)
    if call.json:
        write_json({"entry_id": entry_id, "rev": rev, "deleted": True})
    else:
        print(f"Deleted entry {entry_id}, rev {rev}.")


@asynccontextmanager
async def _client(
    urls: list[str], token_file: Path, ca_file: Path | None, seconds: float
) -> AsyncIterator[VaultClient]:
    import logging

    from clavitor_host.client import Refused, VaultClient

    for url in urls:
        _check_url(url)
    token = read_text(token_file).strip()
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(f"--token-file: {token_file} holds no token")
    logging.getLogger("clavitor.client").addHandler(logging.NullHandler())  # what it tells is told here
    options: dict[str, Any] = {"timeout": seconds}
    if ca_file is not None:
        options["verify"] = _trusting(ca_file)
    async with VaultClient(urls, token, **options) as vault:
        try:
            yield vault
        except Refused as error:  # an entry that is not on a backup yet looks as if it were deleted
            if error.origin is not None:
                _tell(urls, error.origin)
            raise


def _check_url(url: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query
    except ValueError:
        good = False
    if not good or not (url.isascii() and url.isprintable()) or " " in url:
        raise UsageError(f"--url: expected a URL such as https://vault.example.com, not {url}")


def _trusting(ca_file: Path) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # an SSLError is one
        raise UsageError(f"--ca-file: {ca_file} cannot be used: {error.strerror or error}") from None


def _tell(urls: list[str], origin: Origin) -> None:
    """Say when another than the first server answered."""
    if origin.as_of is not None:
        at = origin.as_of.strftime("%Y-%m-%dT%H:%M:%SZ")
        ago = "" if origin.lag is None else f", {origin.lag:.1f} s ago"
        note(f"{origin.url} answered, a backup: it has every write until {at}{ago}, maybe none after it.")
    elif origin.url != urls[0].rstrip("/"):
        note(f"{origin.url} answered, since {urls[0]} did not.")


def _as_dict(entry: VaultEntry) -> dict[str, Any]:
    return {
        "entry_id": entry.entry_id,
        "rev": entry.rev,
        "created_at": entry.created_at,
        "updated_at": entry.updated_at,
        "environment_id": entry.environment_id,
    }


def _origin(origin: Origin) -> dict[str, Any]:
    as_of = None if origin.as_of is None else origin.as_of.isoformat()
    return {"origin": {"url": origin.url, "as_of": as_of, "lag": origin.lag}}
