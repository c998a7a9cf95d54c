"""`clavitor backup`: everything in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.progress import progress_bar
from clavitor_host.terminal import note, write_json

app = typer.Typer()


@app.command()
async def backup(
    call: Invocation, file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")]
) -> None:
    """Write a consistent, checksummed copy of the whole database to FILE.

    The server may run meanwhile.
    """
    from dataclasses import asdict

    from clavitor_host.cli.offline import offline
    from clavitor_host.storage.backup import backup as write_backup

    async with offline(call.config, call.bundle, create=False) as app:
        with progress_bar("Backing up", quiet=call.json) as progress:
            info = await write_backup(app.host.db, file, app.histories, progress)
    size = file.stat().st_size
    if call.json:
        write_json({"file": str(file), "bytes": size, **asdict(info)})
        return
    print(f"Wrote {file} ({info.rows} rows, {size} bytes).")
    if info.left_out:
        note(f"Left out, as they belong to no plugin of this build: {', '.join(info.left_out)}")
