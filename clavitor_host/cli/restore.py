"""`clavitor restore`: a backup becomes the database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.progress import progress_bar
from clavitor_host.terminal import write_json

app = typer.Typer()


@app.command()
async def restore(
    call: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `clavitor backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a database that is not empty.")] = False,
) -> None:
    """Put a backup in the place of the database.

    Stop the server first.
    """
    from dataclasses import asdict

    from clavitor_host.app import create_host
    from clavitor_host.cli.offline import make_folder
    from clavitor_host.storage.backup import restore as read_backup

    config = call.config.host
    histories = create_host(call.config, call.bundle).histories  # put together, not started: nothing is opened
    make_folder(config)
    with progress_bar("Restoring", quiet=call.json) as progress:
        info = await read_backup(config.storage_url, file, histories, progress, force=force)
    if call.json:
        write_json({"file": str(file), **asdict(info)})
    else:
        print(f"Restored {info.rows} rows from {file}.")
