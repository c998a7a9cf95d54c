"""`clavitor bundle sign`, `verify`, `inspect` and `diff`: artifacts that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import table
from clavitor_host.cli.progress import progress_bar
from clavitor_host.cli.prompts import UsageError
from clavitor_host.terminal import can_ask, facts, note, write_json

if TYPE_CHECKING:
    from clavitor_host.bundle.checks.models import Check

ArtifactArgument = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A built bundle, such as dist/x.pyz.")]

SHOWN_FAULTS = 20
"""Faults of one check that are listed for a person; --json has all."""


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command()(sign)
    app.command()(verify)
    app.command()(inspect)
    app.command()(diff)


def sign(
    call: Invocation,
    artifact: ArtifactArgument,
    *,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Ed25519 private key, PEM, as openssl makes it.")],
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="FILE", help="First line: the key's passphrase. Else it is asked."),
    ] = None,
    no_recompile: Annotated[
        bool, typer.Option("--no-recompile", help="Do not compile every module again to compare it first.")
    ] = False,
) -> None:
    """Sign an artifact's checksum and provenance with an Ed25519 key.

    Writes ARTIFACT.sha256.sig and ARTIFACT.intoto.dsse.json. Compiles every module again first, with the Python that
    built it, and signs nothing when one is not what its source says.
    """
    from clavitor_host.bundle.keys import read_private
    from clavitor_host.bundle.sign import sign as sign_artifact

    private = read_private(key, lambda: _passphrase(key, passphrase_file))
    if private.warning:
        note(f"warning: {private.warning}")
    with progress_bar("Compiling again", quiet=call.json) as progress:
        signed = sign_artifact(artifact, private, key, recompile=not no_recompile, progress=progress)
    if no_recompile:
        note("warning: its compiled modules were not compared with their sources (--no-recompile)")
    if call.json:
        write_json({name: str(value) for name, value in signed._asdict().items()})
        return
    facts(
        [
            ("signed", artifact.name),
            ("sha256", signed.digest),
            ("key", signed.keyid),
            ("signature", signed.signature),
            ("provenance", signed.envelope),
        ]
    )


def verify(
    call: Invocation,
    artifact: ArtifactArgument,
    *,
    manifest: Annotated[
        str | None,
        typer.Option("--manifest", metavar="MANIFEST", help="What it was built from; default: by its bundle name."),
    ] = None,
    no_manifest: Annotated[
        bool, typer.Option("--no-manifest", help="Do without: what needs the manifest is skipped.")
    ] = False,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The signer's Ed25519 public key, PEM.")
    ] = None,
    recompile: Annotated[
        bool, typer.Option("--recompile", help="Compile every module again and compare, not only our own.")
    ] = False,
) -> None:
    """Prove what an artifact is: whole, as its manifest and lock say, free of what is forbidden, and signed.

    Exits with 1, naming the member, when it is not.
    """
    from clavitor_host.bundle.errors import BundleError
    from clavitor_host.bundle.verify import Options
    from clavitor_host.bundle.verify import verify as verify_artifact

    if manifest is not None and no_manifest:
        raise UsageError("--manifest does not go with --no-manifest")
    with progress_bar("Verifying", quiet=call.json) as progress:
        report = verify_artifact(artifact, Options(manifest, no_manifest, key, recompile), progress)
    if call.json:
        write_json(report.as_dict())
    else:
        _print_checks(report.checks)
    if report.faults:
        failed = [check.name for check in report.checks if check.faults]
        raise BundleError(f"{artifact.name} failed {', '.join(failed)}: {report.faults[0]}")


def inspect(call: Invocation, artifact: ArtifactArgument) -> None:
    """Show what is in an artifact, by its own word."""
    from clavitor_host.bundle.inspect import inspect as inspect_artifact

    found = inspect_artifact(artifact)
    if call.json:
        write_json(found)
    else:
        _print_inspected(found)


def diff(
    call: Invocation,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A built bundle.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another.")],
    *,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when they differ.")] = False,
) -> None:
    """Show what changed between two artifacts: plugins, distributions, modules, hooks, routes, outbound hosts."""
    from clavitor_host.bundle.diff import diff as diff_artifacts

    found = diff_artifacts(old, new)
    if call.json:
        write_json(found.as_dict())
    elif found.changes:
        table(("", "KIND", "NAME", "WHAT"), found.changes)
    else:
        print("The same file." if found.same else "Not the same file, yet they say the same of themselves.")
    if exit_code and not found.same:
        raise typer.Exit(1)


def _passphrase(key: Path, file: Path | None) -> bytes:
    from clavitor_host.bundle.beside import read_file
    from clavitor_host.bundle.errors import BundleError

    if file is not None:
        try:
            line = read_file(file).split(b"\n", 1)[0].rstrip(b"\r")
        except FileNotFoundError:
            raise BundleError(f"{file} cannot be read: No such file or directory") from None
        if not line:
            raise BundleError(f"{file}: its first line, the passphrase, is empty")
        return line
    if not can_ask():
        raise UsageError(f"{key} is encrypted, and there is no terminal to ask for its passphrase: --passphrase-file")
    from getpass import getpass

    return getpass(f"Passphrase of {key}: ").encode()


def _print_checks(checks: tuple[Check, ...]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.status:<7}  {check.name:<{width}}  {check.what or check.faults[0]}")
        for fault in check.faults[:SHOWN_FAULTS]:
            if check.what:
                print(f"{'':<{width + 9}}  {fault}")
        if len(check.faults) > SHOWN_FAULTS:
            print(f"{'':<{width + 9}}  and {len(check.faults) - SHOWN_FAULTS} more (all: --json)")


def _print_inspected(found: dict[str, Any]) -> None:
    sizes = ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in found["sizes"].items())
    facts(
        [
            ("name", found["name"]),
            ("version", found["version"]),
            ("edition", found["edition"]),
            ("licence", found["license"]),
            ("needs", f"CPython {found['python']}, {found['platform']}"),
            ("built by", f"CPython {found['builder_python']}"),
            ("sha256", found["sha256"]),
            ("size", f"{found['size'] / 1e6:.1f} MB in {found['members']} members: {sizes}"),
            ("commands", ", ".join(found["commands"])),
        ]
    )
    print()
    plugins = [
        (each["name"], each["version"], each["clavitor_api"], "optional" if each["optional"] else "required",
         ", ".join(found["outbound_hosts"].get(each["name"], ())) or "none", ", ".join(each["hooks"]))
        for each in found["plugins"]
    ]  # fmt: skip
    table(("PLUGIN", "VERSION", "API", "NEEDED", "OUTBOUND HOSTS", "HOOKS"), plugins)
    print()
    distributions = [
        (each["name"], each["version"], each["license"], "here" if each["local"] else "wheel", each["sha256"][:16])
        for each in found["distributions"]
    ]
    table(("DISTRIBUTION", "VERSION", "LICENCE", "FROM", "SHA256"), distributions)
    print()
    table(("METHOD", "ROUTE", "OWNER"), found["routes"])
    print()
    table(("BIGGEST MEMBERS", "BYTES"), [(each["name"], each["size"]) for each in found["biggest"]])
