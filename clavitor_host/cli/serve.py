"""`clavitor serve`."""

from __future__ import annotations

import typer

from clavitor_host.cli.invocation import Invocation

app = typer.Typer()


@app.command()
def serve(call: Invocation) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    SIGHUP makes it read the TLS files again.
    """
    from clavitor_host.cli.server import run_server

    raise typer.Exit(run_server(call))
