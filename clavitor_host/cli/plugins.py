"""`clavitor plugins`: what this build is made of."""

from __future__ import annotations

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import table
from clavitor_host.terminal import write_json

app = typer.Typer()


@app.command()
def plugins(call: Invocation) -> None:
    """List the plugins of this build in load order."""
    from clavitor_host.plugins.configure import configure

    configure(call.registry, call.config.plugin_tables, call.config.origins)
    records = call.registry.records
    if call.json:
        write_json(
            {
                "bundle": call.bundle.name,
                "edition": call.registry.edition,
                "plugins": [record.as_dict() for record in records],
                "call_order": call.registry.call_order(),
            }
        )
        return
    print(f"{call.bundle.name} ({call.registry.edition} edition)\n")
    rows = [
        (
            r.name,
            r.version,
            r.state + (", optional" if r.optional else ""),
            r.clavitor_api,
            ", ".join(r.hooks),
            r.last_error,
        )
        for r in records
    ]
    table(("NAME", "VERSION", "STATE", "API", "HOOKS", "LAST ERROR"), rows)
