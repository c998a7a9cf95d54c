"""`clavitor backup`: everything in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import write_json
from clavitor_host.cli.progress import progress_bar

app = typer.Typer()


@app.command()
async def backup(
    call: Invocation, file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")]
) -> None:
    """Write a consistent, checksummed copy of the whole database to FILE.

    The server may run meanwhile.
    """
    from clavitor_host.storage.backup import backup as write_backup

    async with call.offline() as host:
        with progress_bar("Backing up", quiet=call.json) as progress:
            await write_backup(host.db, file, progress)
    size = file.stat().st_size
    if call.json:
        write_json({"file": str(file), "bytes": size})
    else:
        print(f"Wrote {file} ({size} bytes).")
