"""`clavitor bundle`: editions as artifacts. Made, proved and compared by the release engineer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clavitor_host.cli.bundle_checks import register
from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import table
from clavitor_host.cli.progress import progress_bar
from clavitor_host.cli.prompts import UsageError
from clavitor_host.terminal import facts, note, write_json

app = typer.Typer(help="Build, prove and compare bundles.", no_args_is_help=True)

_MANIFEST = typer.Argument(metavar="MANIFEST", help="One of bundles/ by name, or the file of any other.")


@app.command()
def build(
    call: Invocation,
    manifest: Annotated[str, _MANIFEST],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to put the artifact.")] = Path("dist"),
) -> None:
    """Build the artifact of MANIFEST as its lock says: one file, the same bytes from any folder on any day.

    Beside it: its sha256, a bill of materials (CycloneDX) and a provenance statement (in-toto).
    """
    from clavitor_host.bundle import lock as locks
    from clavitor_host.bundle import manifest as manifests
    from clavitor_host.bundle.build import build as build_artifact

    loaded = manifests.load(manifest)
    with progress_bar(f"Building {loaded.name}", quiet=call.json) as progress:
        built = build_artifact(loaded, locks.read(loaded), out, progress, _warn)
    plugins = [{"name": name, "version": version} for name, version in built.plugins]
    if call.json:
        write_json({**{key: _plain(value) for key, value in built._asdict().items()}, "plugins": plugins})
        return
    facts(
        [
            ("artifact", built.path),
            ("size", f"{built.size} bytes"),
            ("sha256", built.sha256),
            ("edition", built.edition),
            ("plugins", ", ".join(f"{name} {version}" for name, version in built.plugins)),
        ]
    )


@app.command()
def lock(
    call: Invocation,
    manifest: Annotated[str, typer.Argument(metavar="[MANIFEST]", help=str(_MANIFEST.help))] = "",
    every: Annotated[bool, typer.Option("--all", help="Lock every manifest of bundles/.")] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Newest versions of what uv.lock does not name.")] = False,
) -> None:
    """Resolve MANIFEST again and say what changed.

    A package index is asked only when what is required changed.
    """
    from clavitor_host.bundle import lock as locks
    from clavitor_host.bundle import manifest as manifests
    from clavitor_host.bundle.resolve import Resolver
    from clavitor_host.bundle.tools import check_tools

    if every == bool(manifest):
        raise UsageError("give a MANIFEST or --all")
    wanted = [manifests.load(name) for name in (manifests.names() if every else [manifest])]
    check_tools()
    resolver = Resolver(_warn)
    answer = {}
    for loaded in wanted:
        old = locks.read_or_none(loaded)
        with progress_bar(f"Locking {loaded.name}", quiet=call.json) as progress:
            new = resolver.resolve(loaded, progress, upgrade=upgrade)
        changes = list(locks.differences(old, new))
        if old != new:
            locks.write(loaded, new)
        file = manifests.label(loaded.lock_file)
        answer[file] = [str(change) for change in changes]
        if not call.json:
            other = "nothing changed" if old == new else "the requirements changed, what they resolve to did not"
            print(f"{file}: {f'{len(changes)} changed' if changes else other}")
            for change in changes:
                print(f"  {change}")
    if call.json:
        write_json(answer)


@app.command()
def describe(call: Invocation) -> None:
    """Say what this program is made of: plugins, hooks, routes, commands, outbound hosts."""
    from clavitor_host.bundle.describe import describe as describe_program
    from clavitor_host.cli.root import COMMANDS, plugin_commands

    commands = [*COMMANDS, *(name for name, _ in plugin_commands(call))]
    said = describe_program(call.bundle, commands)
    if call.json:
        write_json(said)
        return
    print(f"{said['name']} ({said['edition']} edition)\n")
    columns = ("distribution", "name", "version", "clavitor_api", "hooks")
    table(
        ("DISTRIBUTION", "PLUGIN", "VERSION", "API", "HOOKS"),
        [[", ".join(p[key]) if key == "hooks" else p[key] for key in columns] for p in said["plugins"]],
    )
    print()
    table(("METHOD", "ROUTE", "OWNER"), said["routes"])
    print()
    hosts = "; ".join(f"{name}: {', '.join(names)}" for name, names in said["outbound_hosts"].items())
    facts([("commands", ", ".join(said["commands"])), ("outbound hosts", hosts or "none")])


def _warn(line: str) -> None:
    note(f"warning: {line}")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


register(app)
