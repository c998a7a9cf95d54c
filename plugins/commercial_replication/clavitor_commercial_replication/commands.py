"""`clavitor replication`."""

from __future__ import annotations

import typer

app = typer.Typer(name="replication", help="Look at replication, and hand on the primary's role.", no_args_is_help=True)


@app.command()
async def status(ctx: typer.Context) -> None:
    """Show how replication stands."""
